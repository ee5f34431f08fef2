"""The images that `predict` is given: files, folders, standard input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlserve.cli.streams import require_input
from mlserve.client.reading import unreadable
from mlserve.deadline import Deadline
from mlserve.errors import UsageError
from mlserve.system import run_within

STDIN = "-"
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The names of the images in order; `is_batch` is False for one file, given as such."""

    names: tuple[str, ...]
    is_batch: bool


def gather(arguments: Sequence[str], deadline: Deadline) -> Inputs:
    """The images that the arguments stand for, folders walked.

    Raises UsageError for a folder without images, two uses of standard input or a closed one, or a
    single file that is not there, and DeadlineExceeded when the file system does not answer.
    """
    if arguments.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once", hint="give - once")
    if STDIN in arguments:
        require_input()
    found = run_within(deadline, "looking for the files", lambda: _expand(arguments))
    is_batch = len(arguments) > 1 or found != list(arguments)
    if not is_batch and found != [STDIN]:
        run_within(deadline, f"looking for {found[0]}", lambda: _require(found[0]))
    return Inputs(tuple(found), is_batch)


def open_input(name: str) -> str | BinaryIO:
    """What to hand to the client for that name.

    Standard input is read without a buffer: a buffer that a stalled reader holds would abort the
    process at its end.
    """
    return open(0, "rb", buffering=0, closefd=False) if name == STDIN else name


def _expand(arguments: Sequence[str]) -> list[str]:
    names: list[str] = []
    for argument in arguments:
        if argument != STDIN and Path(argument).is_dir():
            inside = sorted(_images(argument))
            if not inside:
                raise UsageError(
                    f"there is no image in the folder {argument}",
                    hint=f"files must end in {', '.join(_SUFFIXES)}; others are given by name",
                )
            names += inside
        else:
            names.append(argument)
    return names


def _require(name: str) -> None:
    """Raises UsageError for a file that is not there, before anything is said of servers."""
    try:
        Path(name).stat()
    except OSError as error:
        raise unreadable(name, error) from error


def _images(folder: str) -> Iterator[str]:
    for parent, _, files in os.walk(folder, onerror=_unreadable):
        for name in files:
            if name.lower().endswith(_SUFFIXES):
                yield str(Path(parent) / name)


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
