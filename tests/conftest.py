"""What several test packages need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real networks and data sets; tests that need it skip without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GRAPHPASS_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set GRAPHPASS_SHARED to its folder")
    return folder
