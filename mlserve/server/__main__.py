"""Run one server process: `python -m mlserve.server`, started by `mlserve up`, not by users.

It serves one model, which its flags name, or those of a server in a configuration file. Its other
flags are the fields of `LoadOptions` (`mlserve.load_options`), for the one model, and of
`ServerSettings` (`mlserve.settings`).
"""

from __future__ import annotations

# Both come before the imports. What is imported stays: the collector would walk it a dozen times.
# numpy's OpenBLAS starts a thread for each further CPU, which then spins 0.1 s for its first work.
import gc
import os

if __name__ == "__main__":
    gc.disable()
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlserve import plugins
from mlserve.activation import NONE_PASSED, PassedSockets, take_sockets
from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions
from mlserve.notify import Notifier
from mlserve.options import add_flags, flag_of
from mlserve.server.app import ServerOptions, log_error, serve
from mlserve.server.config_file import ConfigFile, StartedWith
from mlserve.server.models.versions import ModelSpec
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import GRPC_PORT, REST_PORT, LogFormat, ServerSettings
from mlserve.store import VersionPolicy
from mlserve.system import usable_cpus


def parse(argv: Sequence[str], sockets: PassedSockets = NONE_PASSED) -> ServerOptions:
    """Parse the command line; `sockets` were passed to this process.

    Raises PluginError, and UsageError for a bad value.
    """
    parser = argparse.ArgumentParser(prog="python -m mlserve.server", allow_abbrev=False)
    parser.add_argument("--backend", help="the plugin that loads the model")
    parser.add_argument("--model", help="the name to serve it under")
    parser.add_argument("--base-path", type=Path, help="holds <version>/ folders")
    parser.add_argument("--config", type=Path, help="serve the models of a server in this file")
    parser.add_argument("--server", help="the name of that server")
    parser.add_argument("--state", type=Path, help="where to write what is served")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=GRPC_PORT, help="0: any free port")
    parser.add_argument("--rest-port", type=int, default=REST_PORT, help="0: any free port")
    parser.add_argument("--version", type=int, nargs="+", default=(), help="default: the latest")
    parser.add_argument("--all-versions", action="store_true")
    parser.add_argument("--poll-seconds", type=float, default=1.0, help="0: never look again")
    add_flags(parser, LoadOptions)
    add_flags(parser, ServerSettings)
    given = parser.parse_args(argv)
    needed = ("backend", "model", "base_path") if given.config is None else ("server",)
    if any(getattr(given, name) is None for name in needed):
        parser.error(f"needed: {', '.join(map(flag_of, needed))}")
    options = _of_model(given) if given.config is None else _of_file(given, sockets)
    return replace(options, sockets=sockets)


def _of_model(given: argparse.Namespace) -> ServerOptions:
    options = LoadOptions.taken_from(vars(given))
    settings = ServerSettings.taken_from(vars(given))
    rollout = settings.rollout
    model = ModelSpec(
        plugins.backend(given.backend),
        given.model,
        given.base_path,
        VersionPolicy(tuple(given.version), given.all_versions, aside=rollout.aside),
        options,
        given.poll_seconds,
        rollout=rollout,
    )
    return _options(given, (model,), settings, model.calls_at_once)


def _of_file(given: argparse.Namespace, sockets: PassedSockets) -> ServerOptions:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it would end a server that is starting
    settings = ServerSettings.taken_from(vars(given))
    place = given.host, given.grpc_port, given.rest_port
    started = StartedWith(*place, settings, has_sockets=bool(sockets))
    config = ConfigFile(
        given.config, given.server, started, state=given.state, poll_seconds=given.poll_seconds
    )
    models = config.first_models()
    # Each model has a width of its own, and the file may name more threads later.
    threads = max(usable_cpus(), *(model.calls_at_once for model in models))
    return replace(_options(given, models, settings, threads), config=config)


def _options(
    given: argparse.Namespace,
    models: Sequence[ModelSpec],
    settings: ServerSettings,
    threads: int | None,
) -> ServerOptions:
    return ServerOptions(
        models=models,
        host=given.host,
        grpc_port=given.grpc_port,
        rest_port=given.rest_port,
        threads=threads,
        settings=settings,
    )


def main() -> None:
    """Run the server and exit with its exit code."""
    gc.freeze()
    gc.enable()
    try:
        notifier = Notifier.taken()
        options = replace(parse(sys.argv[1:], take_sockets()), notifier=notifier)
    except MlserveError as error:
        log_to_stderr(LogFormat.TEXT)
        sys.exit(int(log_error(error)))
    log_to_stderr(options.settings.log_format)
    sys.exit(int(asyncio.run(serve(options))))


if __name__ == "__main__":
    main()
