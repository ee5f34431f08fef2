"""The command line: one Typer app, one boundary that prints errors."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any

import typer
from typer.core import TyperGroup

from mlserve import __version__
from mlserve.cli import (
    build,
    compare,
    doctor,
    export,
    metadata,
    plugins,
    predict,
    servers,
    status,
    up,
)
from mlserve.cli.output import print_error, wants_json
from mlserve.cli.streams import guard_streams, require_output
from mlserve.errors import ExitCode, MlserveError


class ErrorBoundary(TyperGroup):
    """Turns mlserve's own errors into two lines on stderr and an exit code.

    Any other exception is a bug and keeps its traceback (exit code 1).
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            require_output()
            return super().invoke(ctx)
        except MlserveError as error:
            print_error(error, as_json=wants_json(ctx))
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
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


app.command("export")(export.export)
app.command("build")(build.build)
app.command("up")(up.up)
app.command("down")(servers.down)
app.command("ps")(servers.ps)
app.command("logs")(servers.logs)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("metadata")(metadata.metadata)
app.command("status")(status.status)
app.command("plugins")(plugins.plugins)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # The interpreter's last collection would walk all that was imported, to free what the end of
    # the process frees anyway: 0.1 s and more, which a deadline does not have.
    atexit.register(gc.freeze)
    # gRPC's own log lines (a server that hangs up, say) would come between ours on stderr, which
    # has to stay readable, as JSON too; what matters of them is in our errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    guard_streams()
    app()
