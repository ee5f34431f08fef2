"""What the tests of the documents share: the pages, and the code that they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n|\n(?= {4}))+")


def pages() -> list[Path]:
    """The README and every page of `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """A page's path in the repository, which names its tests."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, in order: language and code."""
    return _FENCED.findall(page.read_text())


def code(page: Path) -> str:
    """What a page shows in blocks, fenced or indented, but for Python."""
    fenced = [block for language, block in blocks(page) if language != "python"]
    return "\n".join([*fenced, *_INDENTED.findall(prose(page))])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", page.read_text())
