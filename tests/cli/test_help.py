"""What `--help` shows of every command: all of its words, in lines as long as the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlserve.cli.app import app

_FRAME = "─│╭╮╰╯"


def _every(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    below = getattr(command, "commands", None) or {}
    for name in below:
        yield from _every(below[name], (*words, name))


_COMMANDS = dict(_every(typer.main.get_command(app)))


def _shown(words: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", columns)
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("words", _COMMANDS, ids=" ".join)
def test_no_word_of_the_help_is_taken_for_markup(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rich takes [tool.mlserve] and [@N] for marks, and shows nothing in their place.
    shown = " ".join(re.sub(f"[{_FRAME}]", " ", _shown(words, 1000, monkeypatch)).split())
    for param in _COMMANDS[words].params:
        if not param.hidden and (text := getattr(param, "help", None)):
            assert " ".join(text.split()) in shown


@pytest.mark.parametrize("words", _COMMANDS, ids=" ".join)
def test_the_text_fills_the_lines_of_a_terminal(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = _shown(words, 80, monkeypatch).partition("╭─")[0]
    lines = [line.strip() for line in about.splitlines()]
    for line, following in pairwise(lines):
        if line and following:
            word = following.split()[0]
            assert len(line) + len(word) + 1 > 78, f"{line!r} has room for {word!r}"
