"""Writes commands.md, settings.md and errors.md, beside this file, from the code.

`make reference` runs it; `tests/test_reference.py` fails while a page is not what it writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import commands_page
import errors_page
import settings_page

FOLDER = Path(__file__).parent
_MADE = "<!-- Made from the code by docs/reference/generate.py: run `make reference`. -->"


def pages() -> dict[str, str]:
    """The text of each page, by its file name."""
    return {
        "commands.md": _page("Commands", commands_page.blocks()),
        "settings.md": _page("Settings of the server", settings_page.blocks()),
        "errors.md": _page("Errors and exit codes", errors_page.blocks()),
    }


def _page(title: str, blocks: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", _MADE, *blocks]) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
