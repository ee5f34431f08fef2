"""Confine what frameworks write to disk, and import them without their log noise."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mlserve.paths import cache_dir


def confine_frameworks() -> None:
    """Switch telemetry off, whatever the user set, and put Keras' folder into our cache.

    A plugin of a framework that writes there calls this in its package's `__init__`, which runs
    before any module of it; child processes inherit the settings.

    ONNX Runtime 1.29 and later keep a device id and an event queue under ~/.cache/Microsoft on
    Linux unless this variable is set before the import. Keras writes ~/.keras when it is imported;
    a KERAS_HOME set by the user is kept. OpenVINO and NNCF keep an id under ~/intel and send events
    on import unless their package for that cannot be imported; there is no variable.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    os.environ.setdefault("KERAS_HOME", str(cache_dir() / "keras"))


def import_quietly(framework: str, level_variable: str, first_use: Callable[[Any], object]) -> None:
    """Import a framework and use it once, without the messages that no log level suppresses.

    Some are written straight to file descriptor 2 before the level takes effect. They are shown
    after all when the import fails, or when the user set `level_variable`, the framework's own
    variable for its log level. `first_use` is called with the module: the last messages come when
    it looks for devices. Raises ImportError.
    """
    if level_variable in os.environ or framework in sys.modules:
        with keras_left_out():
            importlib.import_module(framework)
        return
    os.environ[level_variable] = "2"
    with _notes_held_back(), keras_left_out():
        first_use(importlib.import_module(framework))


@contextmanager
def unheard(logger: str) -> Iterator[None]:
    """Keep a library's log off the terminal inside the block: an error that it raises says it all.

    Only the level of the logger itself is changed, never that of its handlers: others may use them.
    """
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def keras_left_out() -> Iterator[None]:
    """Keep TensorFlow from importing Keras inside the block, for 1.5 s and 110 MB less.

    TensorFlow imports Keras' optimizers at its end, if it can: only training needs them. Afterwards
    Keras can be imported as usual, as `tensorflow.keras` too.
    """
    if _OPTIMIZERS in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[_OPTIMIZERS] = None  # its import fails, and TensorFlow goes on
    try:
        yield
    finally:
        del modules[_OPTIMIZERS]


_OPTIMIZERS = "keras.src.optimizers"


@contextmanager
def _notes_held_back() -> Iterator[None]:
    """Hold back output to file descriptor 2 inside the block; show it only if the block fails."""
    with tempfile.TemporaryFile() as notes:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
