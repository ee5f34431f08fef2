"""The help of all commands: whole sentences, and one form of a value wherever an option stands."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from tests.harness.cli import commands

_OTHER_THINGS = {
    "--against",  # the right answers; where to send the requests
    "--calibration",  # images for int8; the threshold of a gate
    "--expect",  # labels; what has to hold
    "--input",  # a value; the description of one; a file of values
    "--output",  # `predict` has more formats
    "--processes",  # those that run a model; those that send a load, which `auto` is not for
    "--server",  # the name of a server; which kind an image holds
    "--version",  # one; any number, and `all`
}
"""Options that stand for something else in another command."""
_WITHOUT_OUTPUT = {"logs": "the log is text or JSON by --log-format"}


COMMANDS = commands()


def _options(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "option"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_text_is_whole_sentences(name: str) -> None:
    command = COMMANDS[name]
    assert command.help.partition("For example:")[2].count(f"mlserve {name}") >= 1

    for each in command.params:
        text = (each.help or "").replace("`", "")
        assert text.endswith((".", ")")), each.name
        assert text[:1].isupper() or text.startswith("text:"), text


def test_an_option_takes_the_same_form_of_value_in_every_command() -> None:
    forms: dict[str, set[str]] = defaultdict(set)
    for command in COMMANDS.values():
        for each in _options(command):
            forms[each.opts[0]].add(each.metavar or str(each.type))

    assert {name for name, found in forms.items() if len(found) > 1} <= _OTHER_THINGS


def test_every_command_with_data_can_print_json() -> None:
    for name, command in COMMANDS.items():
        if name in ("deploy", "config"):  # they only have commands
            continue
        options = {each.opts[0]: each for each in _options(command)}
        if name in _WITHOUT_OUTPUT:
            assert "--output" not in options
        else:
            assert "json" in map(str, options["--output"].type.choices), name


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_in_brackets_is_shown(name: str) -> None:
    """Typer takes `[tool.mlserve]` for the name of a style, unless it is told not to."""
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "160"})
    shown = re.sub(r"[\s│]+", " ", done.stdout)

    assert done.exit_code == 0
    for each in COMMANDS[name].params:
        for text in re.findall(r"\[[a-z#/@][^]]*\]", each.help or ""):
            assert text in shown, each.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_text_fills_the_lines_of_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    done = CliRunner().invoke(app, [*name.split(), "--help"])
    lines = [line.strip() for line in done.stdout.partition("╭─")[0].splitlines()]

    for line, following in pairwise(lines):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > 78, f"{line!r} is cut short"
