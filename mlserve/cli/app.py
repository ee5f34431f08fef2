"""The command line: one Typer app, and one boundary that prints errors."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from mlserve import __version__
from mlserve.cli import (
    bench,
    build,
    compare,
    config,
    doctor,
    down,
    export,
    logs,
    metadata,
    models,
    plugins,
    predict,
    ps,
    status,
    up,
)
from mlserve.cli.defaults import IS_JSON
from mlserve.cli.output import guard_streams, print_error, require_output
from mlserve.cli.usage import Command, CommandGroup, asks_for_json
from mlserve.errors import ExitCode, MlserveError
from mlserve.hints import speak_flags


class ErrorBoundary(CommandGroup):
    """Turns mlserve's own errors into two lines on stderr and an exit code.

    This includes wrong options, values and commands. Any other exception is a bug and keeps its
    traceback (exit code 1).
    """

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
        yield
    except MlserveError as error:
        print_error(error, as_json=ctx.meta[IS_JSON])
        raise typer.Exit(int(error.exit_code)) from error
    except KeyboardInterrupt:
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


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


for _command in (
    export.export,
    build.build,
    up.up,
    down.down,
    ps.ps,
    logs.logs,
    predict.predict,
    compare.compare,
    bench.bench,
    metadata.metadata,
    status.status,
    doctor.doctor,
):
    app.command(_command.__name__, cls=Command)(_command)
app.add_typer(models.models, name="models")
app.add_typer(plugins.plugins, name="plugins")
app.add_typer(config.config, name="config")


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
    app()
