"""Start the process of a server, which a launcher has described as data."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

from mlserve import __version__, paths
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.errors import PluginError, UsageError
from mlserve.launch.logs import rotate
from mlserve.launch.private_files import create_private, private_folder
from mlserve.launch.records import files_folder, unwritable
from mlserve.launcher import ServerCommand

Process = subprocess.Popen[bytes]


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
            pass_fds=command.descriptors,
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
