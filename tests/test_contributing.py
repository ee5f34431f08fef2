"""CONTRIBUTING.md, held against the tree: a newcomer opens the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
_FOLDERS = ("mlserve/", "plugins/", "tests/", "docs/", "benchmarks/", "docker/")
_PLACEHOLDERS = {"mlserve/a/b.py", "tests/a/test_b.py"}


def test_every_file_that_the_page_names_is_there() -> None:
    named = [name for name in re.findall(r"`([^`\s]+)`", PAGE) if name.startswith(_FOLDERS)]
    named = [name for name in named if "<" not in name and name not in _PLACEHOLDERS]

    assert len(named) > 20
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_a_name_without_a_folder_stands_beside_the_one_before_it() -> None:
    for line in PAGE.splitlines():
        folder = None
        for name in re.findall(r"`([\w/.*-]+\.(?:py|proto))`", line):
            if "/" in name:
                folder = ROOT / Path(name).parent
            elif folder is not None:
                assert (folder / name).is_file(), line


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 80
