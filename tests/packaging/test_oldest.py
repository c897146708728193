"""`make oldest` tests on the lower bounds that pyproject.toml declares."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def test_the_pins_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {}
    for line in [*project["dependencies"], *extras["cpu"], *extras["demo"]]:
        requirement = Requirement(line)
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        declared[requirement.name] = bound.version.split(".")
    text = (ROOT / "tests/oldest.txt").read_text()
    pins = {
        name: version.split(".")[: len(declared.get(name, ""))]
        for name, version in (line.split("==") for line in text.splitlines() if line[:1] != "#")
    }
    assert pins == declared
