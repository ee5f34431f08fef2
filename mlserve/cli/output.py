"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from mlserve.errors import MlserveError, escaped


class OutputFormat(StrEnum):
    """How a command prints its data."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[OutputFormat, typer.Option("--output", help="How to print the data.")]


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Prints data as JSON; without an indent on one line."""
    typer.echo(json_text(data, indent=indent))


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Data as JSON that no terminal obeys: what is not printable is escaped, as JSON can."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def say(text: str = "", *, end: str = "\n") -> None:
    """Prints a text of the command's data on stdout, made printable."""
    typer.echo(printable(text) + end, nl=False)


def note(message: str) -> None:
    """Tells the user something that is not the command's data, on stderr, made printable."""
    typer.echo(printable(message), err=True)


def printable(text: str) -> str:
    """The text with escapes for what a terminal would obey, or would show in another order.

    Names of models, signatures and labels, and messages of servers, are a stranger's words.
    """
    return escaped(text, "\n\t")


def print_error(error: MlserveError, *, as_json: bool) -> None:
    """Prints an error on stderr: `error: ...` and `hint: ...`, or one JSON object.

    The end of a server's log, where the error has it, comes last.
    """
    if as_json:
        typer.echo(json_text({"error": error_json(error)}), err=True)
        return
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")
    log = error.details.get("log")
    if log:
        note(f"the end of its log (all of it: {log['command']}):")
        note("\n".join(f"  {line}" for line in log["end"]))


def error_json(error: MlserveError) -> dict[str, Any]:
    """An error as data: its kind, message, hint and exit code, and what else there is to know."""
    return {
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        "exit_code": int(error.exit_code),
        **error.details,
    }


def is_interactive() -> bool:
    """Whether stderr is a terminal: progress is shown only there."""
    return sys.stderr.isatty()
