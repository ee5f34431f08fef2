"""`mlserve config`: what the environment and the file set, and whether the file is valid."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from mlserve.cli.defaults import all_settings, document_of
from mlserve.cli.output import OutputFormat, OutputOption, json_text, note, print_json, say
from mlserve.cli.usage import Command, CommandGroup
from mlserve.config.locate import NAME
from mlserve.errors import UsageError

if TYPE_CHECKING:
    from mlserve.config.document import Document
    from mlserve.config.servers import Config

config = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Show and check the configuration: the file mlserve.toml and MLSERVE_... variables."
    "\n\nFor example:\n\nmlserve config show",
)


class SetValue(NamedTuple):
    """A value, where it comes from, and the commands that take it.

    `key` is dotted, as in the file: `client.timeout`. `source` is `default`, `environment` or
    `file`; `place` is the variable or `FILE:LINE:COLUMN`.
    """

    key: str
    value: Any
    source: str
    place: str
    commands: tuple[str, ...]


@config.command(cls=Command)
def show(
    ctx: typer.Context,
    every: Annotated[
        bool, typer.Option("--all", help="Show the built-in defaults too, and thus all keys.")
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show what is set, and where each value comes from.

    A flag goes before the environment, and that before the file.

    For example:

    mlserve config show

    mlserve config show --all
    """
    document = document_of(ctx)
    values = [*_values(ctx, document, every=every), *_of_servers(document)]
    path = None if document is None else document.shown
    if output is OutputFormat.JSON:
        print_json({"file": path, "values": [_as_json(value) for value in values]})
        return
    note(f"file: {path}" if path else "no configuration file was found")
    if not values:
        note("every value is the built-in default; `mlserve config show --all` lists them")
        return
    lines = [_line(value) for value in values]
    width = min(max(map(len, lines)), _WIDEST)
    for line, value in zip(lines, values, strict=True):
        say(f"{line.ljust(width)}  # {value.place or value.source}")


@config.command(cls=Command)
def check(ctx: typer.Context, output: OutputOption = OutputFormat.TEXT) -> None:
    """Check the whole configuration file: every key, its servers, and the files that they name.

    Exit codes: 0 it is valid, 2 it is not: the error names line and column.

    For example:

    mlserve config check

    mlserve config check --config deploy/mlserve.toml
    """
    from mlserve.config.servers import require_files, servers_of

    document = document_of(ctx)
    if document is None:
        raise UsageError(
            "there is no configuration file to check",
            hint="name one: mlserve config check --config FILE",
        )
    found = servers_of(document)
    for server in found.servers:
        require_files(document, server)
    _values(ctx, document, every=False)
    if output is OutputFormat.JSON:
        print_json({"file": document.shown, "servers": _models_by_server(found)})
        return
    say(f"{document.shown} is valid")
    for name, models in _models_by_server(found).items():
        note(f"{name}: {', '.join(models)}")


_STARTER = """\
# What mlserve takes instead of flags. `mlserve config show --all` lists every key.
# Paths start at this folder. Flags and MLSERVE_... variables go before this file.

# store = "models"

# For predict, metadata and status:
# [client]
# endpoint = "localhost:8500"
# timeout = 5.0

# For one command:
# [up]
# max_queue = 64

# A server of several models, for `mlserve up line`:
# [servers.line]
# rest_port = 8501

# [servers.line.models.defects]
# backend = "onnxruntime"
# threads = 2
"""


@config.command(cls=Command)
def init(output: OutputOption = OutputFormat.TEXT) -> None:
    """Write a commented mlserve.toml in this folder, to begin with. One that is there stays.

    For example:

    mlserve config init
    """
    path = Path(NAME)
    try:
        with path.open("x") as file:
            file.write(_STARTER)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is there already", hint="see what it sets: mlserve config show"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="change to a folder that this user may write",
        ) from error
    if output is OutputFormat.JSON:
        print_json({"file": str(path.absolute())})
        return
    say(str(path))
    note("next: take the # off the lines that you want, then mlserve config check")


def _models_by_server(found: Config) -> dict[str, list[str]]:
    return {server.name: [model.name for model in server.models] for server in found.servers}


def _values(ctx: Any, document: Document | None, *, every: bool) -> list[SetValue]:
    """Return the values of the commands' options; one that several commands share comes once."""
    found: dict[tuple[str, str], SetValue] = {}
    for setting in all_settings(ctx.find_root().command):
        given = setting.given(document)
        if given is not None:
            source = "environment" if given.variable else "file"
            value = setting.converted(ctx, given)
            new = SetValue(given.key, value, source, given.origin(document), (setting.command,))
        elif every:
            new = SetValue(
                setting.own_key, setting.option.default, "default", "", (setting.command,)
            )
        else:
            continue
        old = found.get((new.key, new.place))
        commands = (*old.commands, *new.commands) if old else new.commands
        found[new.key, new.place] = new._replace(commands=commands)
    return list(found.values())


def _of_servers(document: Document | None) -> Iterator[SetValue]:
    """Yield what the file says about servers, once it has been checked."""
    from mlserve.config.servers import servers_of
    from mlserve.config.table import SERVERS

    if document is None:
        return
    servers_of(document)
    for name, table in document.table.get(SERVERS, {}).items():
        for way, value in _leaves((SERVERS, name), table):
            place = document.place(way, of_value=True)
            yield SetValue(".".join(way), value, "file", place, ("up",))


def _leaves(way: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict):
        yield way, value
        return
    for key, inner in value.items():
        yield from _leaves((*way, key), inner)


def _as_json(value: SetValue) -> dict[str, Any]:
    return {
        "key": value.key,
        "value": _plain(value.value),
        "source": value.source,
        "from": value.place or None,
        "commands": list(value.commands),
    }


def _line(value: SetValue) -> str:
    """Return a line of TOML; a built-in default is a comment."""
    plain = _plain(value.value)
    text = "" if plain is None else f" {json_text(plain)}"  # such JSON is TOML too
    return f"{'# ' if value.source == 'default' else ''}{value.key} ={text}"


_WIDEST = 60
"""The column from which on places are shown; a longer line pushes its own to the right."""


def _plain(value: Any) -> Any:
    """Return the value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
