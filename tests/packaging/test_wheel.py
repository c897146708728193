"""The wheel holds the four packages, whole, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "graphpass": "graphpass",
    "graphpass_exporters": "exporters",
    "graphpass_models": "models",
    "graphpass_runtime": "runtime",
}


def is_editable(distribution: importlib.metadata.Distribution) -> bool:
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable", False))


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """What the installer recorded, less what it made itself."""
    distribution = importlib.metadata.distribution("graphpass")
    if is_editable(distribution):
        assert os.environ.get("GRAPHPASS_EXPECT_INSTALLED") != "1", "the install is editable"
        pytest.skip("an editable install has no wheel's contents")
    files = {PurePosixPath(file.as_posix()) for file in distribution.files or []}
    return {str(file) for file in files if "__pycache__" not in file.parts}


def sources(package: str) -> set[str]:
    """Every file of the checkout that belongs into the wheel, by its installed name."""
    folder = ROOT / FOLDERS[package]
    return {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".md", ".pyc"} and path.name[0] != "."
    }


def test_nothing_but_the_packages_is_installed(installed):
    tops = {file.partition("/")[0] for file in installed if not file.startswith("../")}
    assert {top for top in tops if not re.fullmatch(r"graphpass-.+\.dist-info", top)} == set(
        FOLDERS
    )
    scripts = {PurePosixPath(file).stem for file in installed if file.startswith("../")}
    assert scripts == {"graphpass"}


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_package_is_whole(installed, package):
    shipped = {file for file in installed if file.startswith(f"{package}/")}
    assert shipped == sources(package)


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_package_is_typed(installed, package):
    assert f"{package}/py.typed" in installed


def test_models_come_with_a_network(installed):
    assert [file for file in installed if re.fullmatch(r"graphpass_models/.+\.onnx", file)]


def test_licence_is_installed(installed):
    assert [file for file in installed if file.endswith("/LICENSE")]


RUNTIME_ALONE = """
import importlib, pkgutil, sys

BLOCKED = {"PIL", "click", "graphpass", "onnx", "onnx_graphsurgeon", "rich", "torch"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
import graphpass_runtime
for module in pkgutil.walk_packages(graphpass_runtime.__path__, "graphpass_runtime."):
    importlib.import_module(module.name)
print("imported")
"""


def test_runtime_needs_numpy_and_onnxruntime_alone(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", RUNTIME_ALONE],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (result.stdout.strip(), result.stderr) == ("imported", "")
