"""The texts of the repository: no traces of one machine, a changelog in form."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Spelled so that this file does not match itself.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~$}/-])/(?:home|root|work|Users)(?:/[\w.-]+)|\b[A-Z]:[\\]+Users[\\]", re.ASCII
)


def repository_files() -> list[Path]:
    """What git tracks, or would track with the next `git add`."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    paths = [ROOT / name.decode() for name in listing.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def read_text(path: Path) -> str | None:
    content = path.read_bytes()
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open('" + "/home" + "/ada/model.onnx')", True),
        ("cd " + "/work" + "/main", True),
        ("C:" + "\\Users" + "\\ada", True),
        ("../shared/data", False),
        ("the home/work path", False),
        ("docs/work/plan.md", False),
    ],
)
def test_absolute_paths_are_recognised(text: str, found: bool):
    assert bool(ABSOLUTE_PATH.search(text)) is found


def test_no_file_holds_an_absolute_path():
    found = []
    for path in repository_files():
        text = read_text(path)
        for number, line in enumerate((text or "").splitlines(), start=1):
            if ABSOLUTE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()[:100]}")
    assert found == []


def test_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")

    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings, "the changelog has no version"
    assert headings[0] == "[Unreleased]"
    versions, dates = [], []
    for heading in headings[1:]:
        match = re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})", heading)
        assert match, f"not '[X.Y.Z] - YYYY-MM-DD': {heading}"
        versions.append(tuple(int(part) for part in match.groups()[:3]))
        dates.append(date.fromisoformat(match[4]))
    assert versions == sorted(set(versions), reverse=True)
    assert dates == sorted(dates, reverse=True)

    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert "END OF TERMS AND CONDITIONS" in text
