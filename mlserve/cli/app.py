"""The command line: one Typer app, and one boundary that prints errors."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import typer

from mlserve import __version__
from mlserve.cli.defaults import IS_JSON
from mlserve.cli.interrupts import keep_interrupts
from mlserve.cli.output import guard_streams, print_error, require_output
from mlserve.cli.usage import Command, CommandGroup, as_command, asks_for_json
from mlserve.errors import ExitCode, MlserveError, UsageError, shortened
from mlserve.hints import speak_flags

_COMMANDS = (
    *("export", "build", "deploy", "up", "down", "ps", "logs", "predict", "gate", "compare"),
    *("certify", "bench", "replay", "tune", "metadata", "status", "why", "audit"),
    *("doctor", "models", "plugins", "config"),
)
"""In the order of the help. `mlserve/cli/<command>.py` holds a function, a command or a Typer of
that name."""


class _Commands(Mapping[str, Any]):
    """The commands by name; the module of each is imported when it is first asked for.

    To import them all takes longer than most commands.
    """

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


@cache
def _command(name: str) -> Any:
    found = getattr(importlib.import_module(f"mlserve.cli.{name}"), name)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        command = found if isinstance(found, Command) else as_command(found)
    command.name = name
    return command


class ErrorBoundary(CommandGroup):
    """Turns mlserve's own errors into two lines on stderr and an exit code.

    This includes wrong options, values and commands. Any other exception is a bug and keeps its
    traceback (exit code 1).
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.commands: Any = _Commands()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words before the command's name."""
        ctx.meta[IS_JSON] = asks_for_json(args)
        with _boundary(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Parse the remaining words and run the command."""
        with _boundary(ctx):
            require_output()
            return super().invoke(ctx)


@contextmanager
def _boundary(ctx: Any) -> Iterator[None]:
    try:
        with _overlong_names_told():
            yield
    except MlserveError as error:
        print_error(error, as_json=ctx.meta[IS_JSON])
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt:
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


@contextmanager
def _overlong_names_told() -> Iterator[None]:
    """Make an error of a name that no file can have: most often it is the content of one.

    Whatever looks at a path raises it, `Path.exists` too.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(
            f"{shortened(str(error.filename), 80)!r} is too long to be the name of a file",
            hint="give the path of the file, not what is in it",
        ) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlserve {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="mlserve",
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Export one model to several runtimes, serve it, and ask it one question in time.",
    epilog="Example: mlserve export && mlserve up && mlserve predict horse.jpg --timeout 5",
)


@app.callback()
def _options(
    version: bool = typer.Option(
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version and exit.",
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    speak_flags()
    # The interpreter's last collection would walk everything imported, to free what the exit frees
    # anyway: 0.1 s and more, which a deadline cannot spare.
    atexit.register(gc.freeze)
    # gRPC's own log lines (about a server that hangs up, say) would mix with ours on stderr, which
    # has to stay readable, as JSON too; our errors report what matters.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    guard_streams()
    keep_interrupts()
    app()
