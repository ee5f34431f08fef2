"""Fragments in changelog.d have names that towncrier reads; a release goes above the older ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "changelog.d"
NOT_FRAGMENTS = {"README.md", "template.md.jinja"}
KINDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["fragment"]


def _is_named_well(name: str) -> bool:
    return re.fullmatch(rf"[a-z0-9]+(-[a-z0-9]+)*\.({'|'.join(KINDS)})\.md", name) is not None


def test_names_of_fragments() -> None:
    found = {path.name for path in FOLDER.iterdir()} - NOT_FRAGMENTS

    wrong = [name for name in sorted(found) if not _is_named_well(name)]
    assert wrong == [], "see changelog.d/README.md for the names"


def test_a_wrong_name_is_seen() -> None:
    assert _is_named_well("logs-tail.added.md")
    for name in ("logs-tail.md", "logs-tail.feature.md", "Logs.added.md", "logs-tail.added.txt"):
        assert not _is_named_well(name)


def test_fragments_say_something_and_bring_no_dash() -> None:
    for path in FOLDER.glob("*.*.md"):
        assert re.match(r"[^-*\s]", path.read_text(encoding="utf-8")), path.name


def test_the_readme_knows_every_kind() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(KINDS)


def test_a_release_goes_above_the_older_ones(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "changelog.d").mkdir()
    shutil.copy(FOLDER / "template.md.jinja", tmp_path / "changelog.d")
    (tmp_path / "changelog.d" / "deadlines.fixed.md").write_text("One line,\nand another.\n")
    (tmp_path / "changelog.d" / "logs-tail.added.md").write_text("`logs --tail N`.\n")
    before = (tmp_path / "CHANGELOG.md").read_text()

    done = subprocess.run(
        [*(sys.executable, "-m", "towncrier", "build"), "--yes", "--version", "9.8.7"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    after = (tmp_path / "CHANGELOG.md").read_text()
    head, body = before.split("\n## ", 1)
    assert re.fullmatch(
        re.escape(head)
        + r"\n## 9\.8\.7 \(\d{4}-\d\d-\d\d\)\n\n"
        + re.escape("### New\n\n- `logs --tail N`.\n\n### Fixed\n\n- One line,\n  and another.\n\n")
        + re.escape(f"## {body}"),
        after,
    ), after[:800]
    assert [path.name for path in (tmp_path / "changelog.d").iterdir()] == ["template.md.jinja"]
