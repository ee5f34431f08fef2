"""What the pages of the reference are written with: paragraphs, lists, tables, links, values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from enum import Enum
from typing import Any

WIDTH = 100
_OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*(?:=[^\s,]*[^\s,.])?")


def wrapped(text: str, indent: str = "") -> str:
    """The text in lines of at most `WIDTH`, of which all but the first are indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def bullets(items: Iterable[str]) -> str:
    """A list with a dash before each item."""
    return "\n".join(wrapped(f"- {item}", "  ") for item in items)


def code(lines: Iterable[str]) -> str:
    """The lines as they are."""
    return "\n".join(["```", *lines, "```"])


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; an empty cell stays one."""
    columns = list(header)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(heading: str, shown: str) -> str:
    """A link to a heading of the same page."""
    return f"[{shown}](#{anchor(heading)})"


def sentence(text: str) -> str:
    """A help text as Markdown: options become code, and an asterisk stays one."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else _OPTION.sub(r"`\g<0>`", piece).replace("*", r"\*")
        for piece in pieces
    )


def plain(value: Any) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)
