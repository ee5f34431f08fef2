"""What a server calls its models, and what it says, never reaches the terminal as a command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.output import json_text, note, print_table, say

EVIL = "m\x1b]0;title\x07\x1b[31m\x9b2J\u202egnp.exe\u2066\r\x00"
ESCAPED = r"m\x1b]0;title\x07\x1b[31m\x9b2J\u202egnp.exe\u2066\r\x00"
KEPT = "Müller 測試 🐎\tnext\nline"


@pytest.mark.parametrize(("text", "shown"), [(EVIL, ESCAPED), (KEPT, KEPT)])
def test_what_a_terminal_would_obey_is_escaped_and_text_is_kept(
    capsys: pytest.CaptureFixture[str], text: str, shown: str
) -> None:
    say(text)
    note(text)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{shown}\n", f"{shown}\n")


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_the_same_data_without_anything_to_obey(indent: int | None) -> None:
    text = json_text({EVIL: [EVIL, KEPT, "𝕊\U000e0001"]}, indent=indent)
    assert json.loads(text) == {EVIL: [EVIL, KEPT, "𝕊\U000e0001"]}
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "Müller" in text


def test_a_table_has_escapes_in_columns_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "state"), [(EVIL, "ready"), ("m", "ready")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{ESCAPED}  ready"
    assert lines[2].index("ready") == lines[1].index("ready")


@pytest.mark.parametrize("output", ["text", "json"])
def test_an_error_that_repeats_a_name_is_escaped(output: str) -> None:
    done = CliRunner().invoke(app, ["status", "--server", EVIL, "--output", output])
    assert done.exit_code != 0
    assert done.stderr
    assert all(char.isprintable() or char == "\n" for char in done.stderr)
