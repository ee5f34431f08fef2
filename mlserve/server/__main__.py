"""Run one server process: `python -m mlserve.server`, started by `mlserve up`, not by users.

Its flags are the fields of `LoadOptions` (`mlserve.load_options`) and `ServerSettings`
(`mlserve.settings`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from mlserve import plugins
from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions
from mlserve.options import described
from mlserve.server.app import ServerOptions, log_error, serve
from mlserve.server.models.versions import ModelSpec
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import GRPC_PORT, REST_PORT, LogFormat, ServerSettings
from mlserve.store import VersionPolicy


def parse(argv: Sequence[str]) -> ServerOptions:
    """Parse the command line. Raises PluginError, and UsageError for a bad value."""
    parser = argparse.ArgumentParser(prog="python -m mlserve.server", allow_abbrev=False)
    parser.add_argument("--backend", required=True, help="the plugin that loads the model")
    parser.add_argument("--model", required=True, help="the name to serve it under")
    parser.add_argument("--base-path", required=True, type=Path, help="holds <version>/ folders")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=GRPC_PORT, help="0: any free port")
    parser.add_argument("--rest-port", type=int, default=REST_PORT, help="0: any free port")
    parser.add_argument("--version", type=int, nargs="+", default=(), help="default: the latest")
    parser.add_argument("--all-versions", action="store_true")
    parser.add_argument("--poll-seconds", type=float, default=1.0, help="0: never look again")
    for item in (*described(LoadOptions), *described(ServerSettings)):
        is_switch = item.kind is bool
        parser.add_argument(
            item.flag,
            type=item.read,
            default=item.default,
            help=item.help,
            nargs="?" if is_switch else None,
            const=True if is_switch else None,
        )
    values = vars(parser.parse_args(argv))
    options = LoadOptions.taken_from(values)
    settings = ServerSettings.taken_from(values)
    model = ModelSpec(
        plugins.backend(values.pop("backend")),
        values.pop("model"),
        values.pop("base_path"),
        VersionPolicy(tuple(values.pop("version")), values.pop("all_versions")),
        options,
        values.pop("poll_seconds"),
    )
    return ServerOptions(models=(model,), threads=options.threads, settings=settings, **values)


def main() -> None:
    """Run the server and exit with its exit code."""
    try:
        options = parse(sys.argv[1:])
    except MlserveError as error:
        log_to_stderr(LogFormat.TEXT)
        sys.exit(int(log_error(error)))
    log_to_stderr(options.settings.log_format)
    sys.exit(int(asyncio.run(serve(options))))


if __name__ == "__main__":
    main()
