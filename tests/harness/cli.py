"""The command line as data: every command by its name, `gate verify` for one below another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import typer.main

from mlserve.cli.app import app


@cache
def commands() -> dict[str, Any]:
    """Return the commands, in the order of the help."""
    return dict(_below(typer.main.get_command(app)))


def _below(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield before + name, command
        yield from _below(command, f"{name} ") if hasattr(command, "commands") else ()
