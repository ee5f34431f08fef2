"""Text for people: tables and paragraphs that fit the terminal. Programs read `--output json`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from mlserve.cli.output import printable, say

_GAP = "  "
_BELOW = " " * 4
_COMMANDS = ("pip ", "mlserve ")
_NARROWEST = 24
"""A column that is narrower is not worth wrapping text into."""


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    below: Sequence[Sequence[str]] | None = None,
) -> None:
    """Prints rows under an upper-case header, in columns as wide as their widest cell.

    `below` are the lines that stand under each row. What is wider than the terminal (80 columns
    where there is none) is wrapped: the last column in its place, or below its row where it has no
    room. Nothing is cut, so a long name can still make a line longer.
    """
    lines = [[name.upper() for name in header], *[list(map(printable, row)) for row in rows]]
    under: list[list[str]] = [[], *[list(texts) for texts in below or [()] * len(rows)]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    room = _columns() - sum(width + len(_GAP) for width in widths[:-1])
    if room < min(widths[-1], _NARROWEST):
        for line, texts in zip(lines, under, strict=True):
            texts.insert(0, line.pop())
    for line, texts in zip(lines, under, strict=True):
        *start, last = line
        left = "".join(cell.ljust(width) + _GAP for cell, width in zip(start, widths, strict=False))
        print_wrapped(last, " " * len(left), first=left)
        for text in filter(None, texts):
            print_wrapped(text, _BELOW)


def fix_line(fix: str) -> str:
    """The line that tells a fix. One that is a command is printed in one piece, to be copied."""
    line = f"fix: {fix}"
    return _Whole(line) if fix.startswith(_COMMANDS) else line


class _Whole(str):
    """A text that is not wrapped, however narrow the terminal is."""

    __slots__ = ()


def print_wrapped(text: str, indent: str, *, first: str | None = None) -> None:
    """Prints text, wrapped to the terminal; `first` (default: `indent`) begins its first line."""
    width = max(_columns() - len(indent), _NARROWEST)
    begin = indent if first is None else first
    if isinstance(text, _Whole):
        say(f"{begin}{text}")
        return
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]:
        say(f"{begin}{line}".rstrip())
        begin = indent


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns
