"""Keeps TensorFlow's start-up notes off the terminal during an export."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"


def import_quietly() -> None:
    """Imports TensorFlow without its start-up notes, unless the user asked for a log level.

    Some are written straight to file descriptor 2 before a level counts. Raises ImportError.
    """
    if LEVEL_VARIABLE in os.environ or "tensorflow" in sys.modules:
        importlib.import_module("tensorflow")
        return
    os.environ[LEVEL_VARIABLE] = "2"
    with notes_held_back():
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.get_logger().setLevel("ERROR")
        tensorflow.constant(0)  # finds the devices, which is when the last notes are written


@contextmanager
def notes_held_back() -> Iterator[None]:
    """A `with` block whose output to file descriptor 2 is shown only when the block fails."""
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
