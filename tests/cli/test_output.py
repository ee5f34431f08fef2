"""Tables that fit 80 columns, and cut nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mlserve.cli.output import fix_line, print_error, print_table
from mlserve.errors import Overloaded

_WIDTH = 80


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_long_last_cell_is_wrapped_in_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    text = "the file cannot be read " * 8
    print_table(("version", "error"), [("1", text.strip()), ("2", "")])

    header, first, *rest, last = printed(capsys)
    assert header == "VERSION  ERROR"
    assert first.startswith("1        the file")
    assert all(line.startswith(" " * 9) for line in rest)
    assert " ".join([first[9:], *(line.strip() for line in rest)]) == text.strip()
    assert last == "2"
    assert max(map(len, [first, *rest])) <= _WIDTH


def test_a_last_column_without_room_stands_under_its_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("name", "state", "error"), [("n" * 60, "ready", "it is not " * 3)])

    lines = printed(capsys)
    assert lines == [
        "NAME" + " " * 58 + "STATE",
        "    ERROR",
        "n" * 60 + "  ready",
        "    it is not it is not it is not",
    ]


def test_a_name_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "state"), [("n" * 100, "ready")], [["where " + "x" * 90]])

    text = "\n".join(printed(capsys))
    assert "n" * 100 in text
    assert "x" * 90 in text


def test_a_wide_terminal_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table(("version", "error"), [("1", "the file cannot be read " * 6)])

    assert len(printed(capsys)) == 2


@pytest.mark.parametrize("columns", ["80", "30"])
def test_a_fix_that_is_a_command_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    command = "pip install -e '.[server]' -e 'plugins/onnxruntime[serve,export]' -c constraints.txt"
    print_table(["name"], [["onnxruntime"]], [[fix_line(command), fix_line("look " * 40)]])
    lines = printed(capsys)
    assert f"    fix: {command}" in lines
    assert len(lines) > 4, "what is no command is wrapped"


@pytest.mark.server
@pytest.mark.parametrize("command", ["plugins", "doctor"])
def test_a_real_table_fits(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    argv = [sys.executable, "-m", "mlserve", command]
    text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    data = subprocess.run([*argv, "--output", "json"], capture_output=True, check=False).stdout

    assert json.loads(data)
    assert len(text.splitlines()) > 10
    assert [line for line in text.splitlines() if len(line) > _WIDTH and not _is_path(line)] == []


def _is_path(line: str) -> bool:
    """Whether it is one long word, which is not cut, or a command to be copied."""
    is_command = line.lstrip().startswith("fix: pip ")
    return is_command or len(line.rsplit(maxsplit=1)[-1]) > _WIDTH // 2


@pytest.mark.parametrize(("price", "is_told"), [(0.83, True), (None, False)])
def test_a_refusal_of_mlserves_server_names_the_command_that_explains_it(
    capsys: pytest.CaptureFixture[str], price: float | None, is_told: bool
) -> None:
    error = Overloaded("2 requests are running and 19 waiting")
    error.price = price
    error.details["request_id"] = "5e39820b"
    print_error(error, as_json=False)
    assert ("why: mlserve why 5e39820b" in capsys.readouterr().err) == is_told
