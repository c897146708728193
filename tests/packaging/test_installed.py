"""`make test` tests what it installed, not the checkout it stands in."""

from __future__ import annotations

import importlib
import os
import sysconfig
from pathlib import Path

import pytest

PACKAGES = ["graphpass", "graphpass_exporters", "graphpass_models", "graphpass_runtime"]


@pytest.mark.skipif(
    os.environ.get("GRAPHPASS_EXPECT_INSTALLED") != "1",
    reason="only `make test` promises an installed wheel (GRAPHPASS_EXPECT_INSTALLED=1)",
)
@pytest.mark.parametrize("package", PACKAGES)
def test_package_comes_from_site_packages(package: str):
    origin = importlib.import_module(package).__file__
    assert origin is not None, f"{package} is a namespace package: no __init__.py was installed"
    assert Path(origin).resolve().parent.parent == Path(sysconfig.get_path("purelib")).resolve()
