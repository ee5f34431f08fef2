"""`python -m mlserve.server`: one server process. Started by `mlserve up`, not by users."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from mlserve import plugins
from mlserve.backend import LoadOptions
from mlserve.errors import MlserveError
from mlserve.server.app import ServerOptions, log_error, serve
from mlserve.server.models.versions import ModelSpec, VersionPolicy
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import LogFormat, ServerSettings, described


def parse(argv: Sequence[str]) -> ServerOptions:
    """The options of that command line. Raises PluginError, and UsageError for a setting."""
    parser = argparse.ArgumentParser(prog="python -m mlserve.server", allow_abbrev=False)
    parser.add_argument("--backend", required=True, help="the plugin that loads the model")
    parser.add_argument("--model", required=True, help="the name to serve it under")
    parser.add_argument("--base-path", required=True, type=Path, help="holds <version>/ folders")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=8500, help="0: any free port")
    parser.add_argument("--rest-port", type=int, default=8501, help="0: any free port")
    parser.add_argument("--version", type=int, nargs="+", default=(), help="default: the latest")
    parser.add_argument("--all-versions", action="store_true")
    parser.add_argument("--poll-seconds", type=float, default=1.0, help="0: never look again")
    parser.add_argument("--threads", type=_positive, help="default: the CPUs that may be used")
    parser.add_argument("--provider", help="ONNX Runtime's execution provider; default: auto")
    parser.add_argument("--instances", type=_positive, help="sessions that run at the same time")
    for setting in described():
        parser.add_argument(
            setting.flag,
            type=setting.read,
            default=setting.default,
            help=setting.help,
            nargs="?" if setting.kind is bool else None,
            const=True if setting.kind is bool else None,
        )
    options = vars(parser.parse_args(argv))
    policy = VersionPolicy(tuple(options.pop("version")), options.pop("all_versions"))
    settings = ServerSettings(**{item.name: options.pop(item.name) for item in described()})
    how = LoadOptions(
        options["threads"],
        options.pop("provider"),
        options.pop("instances"),
        settings.allow_unsafe_ops,
    )
    model = ModelSpec(
        plugins.backend(options.pop("backend")),
        options.pop("model"),
        options.pop("base_path"),
        policy,
        how,
        options.pop("poll_seconds"),
    )
    return ServerOptions(models=(model,), settings=settings, **options)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def main() -> None:
    """Runs the server and ends the process with its exit code."""
    try:
        options = parse(sys.argv[1:])
    except MlserveError as error:
        log_to_stderr(LogFormat.TEXT)
        sys.exit(int(log_error(error)))
    log_to_stderr(options.settings.log_format)
    sys.exit(int(asyncio.run(serve(options))))


if __name__ == "__main__":
    main()
