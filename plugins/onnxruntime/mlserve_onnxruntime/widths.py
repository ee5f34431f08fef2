"""Sessions of one model for several widths, whose weights are in memory once.

ONNX Runtime fixes the threads of a session when it is opened. So there is one for each width that
a call may have, and all are opened with the model: a switch takes no time. Their weights would be
in memory as often. Therefore the model is first written as ONNX Runtime has optimized it for this
machine, with its weights in the layout that the operations use, in a file beside it; every session
maps that file. Nothing is optimized twice either: a further session takes 20 to 40 ms to open. The
file is deleted as soon as all have mapped it. A process that is killed before that leaves it
behind, in memory as a rule: the next one that shares weights deletes it.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnxruntime

from mlserve.precision import Precision
from mlserve_onnxruntime.opening import (
    LOAD_ERRORS,
    load_failed,
    open_file,
    plain,
    session_options,
)
from mlserve_onnxruntime.providers import CPU, installed

_log = logging.getLogger(__name__)
_WORTH_SHARING = 4 * 2**20
"""The bytes of a model from which its sessions share their weights."""
_IN_MEMORY = Path("/dev/shm")  # noqa: S108  a file system, and the folder in it is the user's alone
_PREFIX = "mlserve-widths-"
_YOUNG = 60.0
"""Seconds in which a folder may not be locked yet by the process that made it."""
_ROOM = 3
"""The free space that a file system must have, in sizes of the model."""
_SMALLEST = 1024
"""The bytes of a weight from which it is in the file that is mapped."""


def widths(threads: int) -> list[int]:
    """Return the widths that a call can have on so many threads: all, half of them, ..., one.

    A call that gets any number of threads then uses more than half of them.
    """
    return [threads >> halved for halved in range(threads.bit_length())]


def sessions_of_widths(
    path: Path, wanted: Sequence[int], precision: Precision = Precision.FP32
) -> list[Any]:
    """Open the file once for each width, on the CPU. Raises ModelLoadFailed."""
    providers = [installed()[CPU]]
    if len(wanted) > 1 and _size(path.parent) >= _WORTH_SHARING:
        try:
            return _sharing(path, wanted, providers, precision)
        except (OSError, *LOAD_ERRORS) as error:
            # No room for the file, or a model that cannot be written, or one that cannot be read at
            # all, which fails once more below.
            _log.info("each session of %s has weights of its own: %s", path, plain(error))
    try:
        return [open_file(path, session_options(width, precision), providers) for width in wanted]
    except LOAD_ERRORS as error:
        raise load_failed(path, error) from error


def _sharing(
    path: Path, wanted: Sequence[int], providers: Sequence[str], precision: Precision
) -> list[Any]:
    with _folder(_size(path.parent)) as folder:
        optimized = folder / "model.onnx"
        _optimize(path, optimized, providers)
        sessions = []
        for width in wanted:
            options = session_options(width, precision)
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            sessions.append(
                onnxruntime.InferenceSession(str(optimized), options, providers=providers)
            )
        return sessions


def _optimize(path: Path, into: Path, providers: Sequence[str]) -> None:
    """Write the model as ONNX Runtime runs it on this machine, its weights apart."""
    options = session_options(1)
    options.optimized_model_filepath = str(into)
    for key, value in {
        "optimized_model_external_initializers_file_name": "weights",
        "optimized_model_external_initializers_min_size_in_bytes": _SMALLEST,
        "save_external_prepacked_constant_initializers": 1,
    }.items():
        options.add_session_config_entry(f"session.{key}", str(value))
    open_file(path, options, providers)
    _give_back_memory()  # that session had the weights twice, and is gone


def _give_back_memory() -> None:
    """Return freed memory to the system, as glibc does not for pieces of some kilobytes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def _folder(model: int) -> Iterator[Path]:
    """Make a folder with room for a model of that size, in memory if possible. Raises OSError."""
    places = [_IN_MEMORY, Path(tempfile.gettempdir())]
    for each in places:
        _clear(each)
    place = next((place for place in places if _free(place) >= _ROOM * model), None)
    if place is None:
        raise OSError(f"neither {places[0]} nor {places[1]} has room for a copy of {model} bytes")
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(place: Path) -> None:
    """Delete the folders there of processes that were killed: their locks went with them."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, another user's, or just deleted
            if time.time() - folder.stat().st_mtime > _YOUNG:
                with _locked(folder):
                    shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on the folder. Raises OSError if another process does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _free(place: Path) -> int:
    if not os.access(place, os.W_OK):
        return 0
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _size(folder: Path) -> int:
    """Return the bytes of a model and its weights."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
