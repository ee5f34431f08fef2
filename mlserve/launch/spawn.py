"""Starts a server process that outlives the command: its own session, its output in a log file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mlserve import __version__, paths
from mlserve.credentials import TOKEN_VARIABLE
from mlserve.errors import PluginError
from mlserve.launch.command import Command
from mlserve.launch.logs import rotate
from mlserve.launch.private import create_private, private_folder
from mlserve.launch.state import unwritable

Process = subprocess.Popen[bytes]


def spawn(command: Command, name: str, log: Path | None) -> Process:
    """The started process of that server. Its output goes to `log`; None means to our stderr.

    Raises UsageError when the state folder cannot be written, PluginError when the executable
    cannot be run.
    """
    folder = paths.state_dir() / "files" / name
    argv = command.argv_in(folder.absolute())
    try:
        write_files(command.files, folder)
        with _output(log, argv) as output:
            return _start(argv, command, output)
    except OSError as error:
        raise unwritable(paths.state_dir(), error) from error


def _start(argv: list[str], command: Command, output: IO[bytes]) -> Process:
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_inherited(), **command.env},
            start_new_session=True,
        )
    except OSError as error:
        raise PluginError(
            f"{argv[0]} cannot be run: {error.strerror or error}",
            hint="look at the file and its rights, or take another --launcher",
        ) from error


def _inherited() -> dict[str, str]:
    """The environment, without what only a client needs to know."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


@contextmanager
def _output(log: Path | None, argv: list[str]) -> Iterator[IO[bytes]]:
    if log is None:
        yield sys.stderr.buffer
        return
    rotate(log)
    with create_private(log, buffering=0) as file:
        # Written by us and at once, so that a full disk is told of here and now.
        file.write(f"mlserve {__version__} runs: {shlex.join(argv)}\n".encode())
        yield file


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Writes a server's files, texts by name, into its folder. Raises OSError, UsageError."""
    if not files:
        return
    for each in (paths.state_dir(), folder.parent, folder):
        private_folder(each)
    for name, text in files.items():
        with create_private(folder / name) as file:
            file.write(text.encode())
