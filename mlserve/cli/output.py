"""What commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from mlserve.errors import MlserveError


class OutputFormat(StrEnum):
    """How a command prints its data."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[OutputFormat, typer.Option("--output", help="How to print the data.")]


def print_json(data: Any) -> None:
    """Prints data as indented JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """Tells the user something that is not the command's data, on stderr."""
    typer.echo(message, err=True)


def print_error(error: MlserveError, *, as_json: bool) -> None:
    """Prints an error on stderr: `error: ...` and `hint: ...`, or one JSON object.

    The end of a server's log, where the error has it, comes last.
    """
    if as_json:
        note(json.dumps({"error": error_json(error)}, ensure_ascii=False))
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
