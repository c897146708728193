"""Whether 8-bit products may saturate, on processors that are made up."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from graphpass_runtime import cpu


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : avx2 avx512f avx512_vnni", False),
        ("AMD64", "flags : avx2 avx_vnni", False),
        ("x86_64", "flags : avx2 avx512f", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_only_x86_without_vnni_saturates(monkeypatch, machine, flags, expected):
    def read_text(_: Path) -> str:
        if flags is None:
            raise FileNotFoundError
        return flags

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read_text)
    cpu.saturates.cache_clear()
    try:
        assert cpu.saturates() is expected
    finally:
        cpu.saturates.cache_clear()
