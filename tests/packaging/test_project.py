"""pyproject.toml says what the folders say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in(folder: Path, name: str) -> set[str]:
    """Every folder with Python in it, as it is imported."""
    folders = {path.parent.relative_to(folder) for path in folder.rglob("*.py")}
    return {".".join([name, *each.parts]) for each in folders}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", each, maxsplit=1)[0] for each in requirements}


def test_every_package_is_listed(pyproject):
    setuptools = pyproject["tool"]["setuptools"]
    found = set()
    for name, folder in setuptools["package-dir"].items():
        found |= packages_in(ROOT / folder, name)
    assert found == set(setuptools["packages"])


def test_every_package_has_an_init():
    folders = {
        path.parent
        for top in ("graphpass", "runtime", "exporters", "models")
        for path in (ROOT / top).rglob("*.py")
    }
    assert [
        str(each.relative_to(ROOT)) for each in folders if not (each / "__init__.py").is_file()
    ] == []


def test_core_needs_only_what_conversion_needs(pyproject):
    assert names(pyproject["project"]["dependencies"]) == {
        "click",
        "numpy",
        "onnx",
        "onnx-graphsurgeon",
        "pillow",
        "rich",
    }


def test_runtime_builds_exclude_each_other(pyproject):
    extras = {
        extra: names(requirements)
        for extra, requirements in pyproject["project"]["optional-dependencies"].items()
    }
    assert {"onnxruntime", "onnxruntime-gpu"} & extras["cpu"] == {"onnxruntime"}
    assert {"onnxruntime", "onnxruntime-gpu"} & extras["gpu"] == {"onnxruntime-gpu"}
    others = set().union(*(extras[each] for each in extras if each not in {"cpu", "gpu"}))
    assert not {"onnxruntime", "onnxruntime-gpu"} & others


def test_demo_needs_no_torch(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    assert "torch" not in names(extras["cpu"] + extras["demo"])
    assert "torch==2.13.0" in extras["export"]  # a loose pin can pull in gigabytes


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"
