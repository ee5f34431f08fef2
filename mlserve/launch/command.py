"""The server process: its description as data, the choice of its launcher, and its start."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import IO

from mlserve import __version__, paths, plugins
from mlserve.backend import Backend, Listen, ServerSpec
from mlserve.backend_choice import require_regarded, require_runtime
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.errors import PluginError, UsageError
from mlserve.launch.logs import rotate
from mlserve.launch.private_files import create_private, private_folder
from mlserve.launch.records import STATE_FILE, files_folder, unwritable
from mlserve.launch.serving import ConfigEntry, Serving
from mlserve.options import flag_of
from mlserve.served_model import ServedModel
from mlserve.server_state import state_text
from mlserve.settings import Launcher

Process = subprocess.Popen[bytes]
_NOWHERE = Listen("127.0.0.1", 0, 0)
"""Placeholder for checks made before the ports are known."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A server process to start. `env` is added to the environment.

    `files` maps paths to texts written into the server's own folder first; `{files}` in an argument
    or a value of `env` stands for that folder. `listens_everywhere`: the server ignores the host.
    `follows_versions`: it serves a newer version as it appears. `longest_folder`: the bytes that
    the path of the folder may have.
    """

    launcher: Launcher
    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str]
    listens_everywhere: bool = False
    follows_versions: bool = True
    longest_folder: int | None = None

    def placed(self, folder: Path) -> ServerCommand:
        """Return the command with the folder of the server's files filled in."""
        argv = tuple(argument.replace("{files}", str(folder)) for argument in self.argv)
        env = {name: value.replace("{files}", str(folder)) for name, value in self.env.items()}
        return replace(self, argv=argv, env=env)


def launcher_for(backends: Sequence[Backend], serving: Serving, wanted: Launcher) -> Launcher:
    """Return the launcher to use; `auto` is native if its executable is on PATH, else embedded.

    `backends` are those of the models, in their order. Raises PluginError if something the launcher
    needs is not installed, UsageError if the backend or the versions are not supported by it.
    """
    for backend, model in zip(backends, serving.models, strict=True):
        require_regarded(backend, model.options)
    if serving.config is not None:
        _require_following(serving.config, wanted)
        wanted = Launcher.EMBEDDED
    if wanted is Launcher.NATIVE:
        _require_native(backends[0], serving)
        return wanted
    if wanted is Launcher.DOCKER:
        _require_no_ladder(serving)
        return wanted  # mlserve.launch.docker reports what it needs
    if wanted is Launcher.AUTO and _suits_native(backends[0], serving):
        return Launcher.NATIVE
    for backend in backends:
        require_runtime(backend)
    return Launcher.EMBEDDED


def _require_no_ladder(serving: Serving) -> None:
    """Raise UsageError for a ladder in a container, which sees the folder of one model only."""
    if serving.only.options.ladder is not None:
        raise UsageError(
            "the docker launcher does not take --ladder: its containers have one model's folder",
            hint="use --launcher embedded",
        )


def _require_following(config: ConfigEntry, wanted: Launcher) -> None:
    """Raise UsageError for a launcher whose servers do not follow a configuration file."""
    if wanted in (Launcher.NATIVE, Launcher.DOCKER):
        raise UsageError(
            f"the {wanted} launcher does not serve [servers.{config.server}] of {config.path}: its "
            "servers have one model, and do not follow the file",
            hint="use --launcher embedded, or name the model: mlserve up --backend NAME --model "
            f"NAME --launcher {wanted}",
        )


def _suits_native(backend: Backend, serving: Serving) -> bool:
    if serving.changed or serving.only.versions.serves_all:
        return False
    return _is_on_path([s for s in _native_specs(backend, serving) if not s.only_on_request])


def command(serving: Serving, launcher: Launcher, listen: Listen) -> ServerCommand:
    """Return the process that serves this on those ports with that launcher (not `auto`)."""
    if launcher is Launcher.EMBEDDED:
        return _embedded(serving, listen)
    backend = plugins.backend(serving.only.backend)
    specs = _native_specs(backend, serving, listen)
    spec = next((s for s in specs if shutil.which(s.executable)), None)
    if spec is None:
        raise _no_native(backend, specs)
    executable = shutil.which(spec.executable) or spec.executable
    return ServerCommand(
        Launcher.NATIVE,
        (executable, *spec.argv),
        spec.env,
        spec.files,
        spec.listens_everywhere,
        spec.follows_versions,
        spec.longest_folder,
    )


def _embedded(serving: Serving, listen: Listen) -> ServerCommand:
    # -P: a user's module in the current folder must not shadow one of the server's.
    argv = [sys.executable, "-P", "-m", "mlserve.server"]
    argv += _flags_of(serving.only) if serving.config is None else _flags_of_entry(serving.config)
    argv += ["--host", listen.host]
    argv += ["--grpc-port", str(listen.grpc_port), "--rest-port", str(listen.rest_port)]
    argv += serving.settings.argv()
    files = {} if serving.config is None else {STATE_FILE: state_text(serving.models)}
    return ServerCommand(Launcher.EMBEDDED, tuple(argv), {"PYTHONUNBUFFERED": "1"}, files)


def _flags_of(model: ServedModel) -> list[str]:
    # One argument, because a model's name may begin with a dash.
    flags = ["--backend", model.backend, f"--model={model.model}"]
    flags += ["--base-path", str(model.base_path)]
    if model.versions.versions:
        flags += ["--version", *map(str, model.versions.versions)]
    if model.versions.serves_all:
        flags.append("--all-versions")
    return flags + model.options.argv()


def _flags_of_entry(config: ConfigEntry) -> list[str]:
    flags = [f"--config={config.path}", f"--server={config.server}"]
    return [*flags, f"--state={{files}}/{STATE_FILE}"]


def _native_specs(
    backend: Backend, serving: Serving, listen: Listen = _NOWHERE
) -> list[ServerSpec]:
    model = serving.only
    specs = backend.external_servers(model.base_path, model.model, model.versions.versions, listen)
    return [spec for spec in specs if spec.launcher == Launcher.NATIVE]


def _is_on_path(specs: Sequence[ServerSpec]) -> bool:
    return any(shutil.which(spec.executable) for spec in specs)


def _require_native(backend: Backend, serving: Serving) -> None:
    """Raise UsageError for what a third-party server cannot do, PluginError if it is missing."""
    if serving.changed:
        raise UsageError(
            f"the native launcher does not take {flag_of(serving.changed[0])}",
            hint="use --launcher embedded",
        )
    if serving.only.versions.serves_all:
        raise UsageError(
            "the native launcher cannot follow all versions",
            hint="name them (--version 1 --version 2), or use --launcher embedded",
        )
    specs = _native_specs(backend, serving)
    if not _is_on_path(specs):
        raise _no_native(backend, specs)


def _no_native(backend: Backend, specs: Sequence[ServerSpec]) -> PluginError | UsageError:
    if not specs:
        return UsageError(
            f"the backend {backend.name!r} has no third-party server",
            hint="use --launcher embedded",
        )
    names = " or ".join(spec.executable for spec in specs)
    return PluginError(f"{names} is not on PATH", hint=specs[0].install_hint)


def spawn(command: ServerCommand, name: str, log: Path | None) -> Process:
    """Start the server's process. Its output goes to `log`, or to our stderr if that is None.

    Raises UsageError if the state folder cannot be written or its path is too long, PluginError if
    the executable cannot be run.
    """
    folder = files_folder(name)
    _require_short(folder.absolute(), command)
    placed = command.placed(folder.absolute())
    try:
        write_files(placed.files, folder)
        with _output(log, placed.argv) as output:
            return _start(placed, output)
    except OSError as error:
        raise unwritable(paths.state_dir(), error) from error


def _require_short(folder: Path, command: ServerCommand) -> None:
    size, most = len(os.fsencode(folder)), command.longest_folder
    if most is not None and size > most:
        raise UsageError(
            f"{Path(command.argv[0]).name} takes a folder for its sockets of at most {most} bytes, "
            f"and the path of its folder has {size}: {folder}",
            hint="set MLSERVE_HOME to a shorter path, or take a model with a shorter name",
        )


def _start(command: ServerCommand, output: IO[bytes]) -> Process:
    try:
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_inherited(), **command.env},
            start_new_session=True,
        )
    except OSError as error:
        raise PluginError(
            f"{command.argv[0]} cannot be run: {error.strerror or error}",
            hint="check the file and its permissions, or use another --launcher",
        ) from error


def _inherited() -> dict[str, str]:
    """Return the environment without the variables that only a client needs."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


@contextmanager
def _output(log: Path | None, argv: Sequence[str]) -> Iterator[IO[bytes]]:
    if log is None:
        yield sys.stderr.buffer
        return
    rotate(log)
    with create_private(log, buffering=0) as file:
        # Written by us, immediately, so that a full disk is reported here.
        file.write(f"mlserve {__version__} runs: {shlex.join(argv)}\n".encode())
        yield file


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Write a server's files, texts by path, into its folder. Raises OSError, UsageError."""
    if not files:
        return
    inner = {parent for path in files for parent in PurePath(path).parents}
    for each in (paths.state_dir(), folder.parent, *(folder / part for part in sorted(inner))):
        private_folder(each)
    for path, text in files.items():
        with create_private(folder / path) as file:
            file.write(text.encode())
