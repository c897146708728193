"""What the processor can do, as far as it matters to a session."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_X86 = ("x86_64", "amd64", "i386", "i686")


@functools.cache
def saturates() -> bool:
    """May products of 8-bit integers saturate in 16 bits on the way to their sum?

    They do on x86 processors without VNNI. True as well on an x86 processor that cannot
    be asked, which is slower and safe.
    """
    if platform.machine().lower() not in _X86:
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text().lower()
    except OSError:
        return True
    return not any(name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
