"""Keeps TensorFlow's start-up notes off the terminal; what the user has set wins."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile

LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"


def quiet_logs() -> None:
    """Sets TensorFlow's log level to errors, unless the user set one.

    It counts only before TensorFlow is imported.
    """
    os.environ.setdefault(LEVEL_VARIABLE, "2")


def import_quietly() -> None:
    """Imports TensorFlow without the notes that no log level holds back.

    They are written straight to file descriptor 2 before its logging is set up. They are shown
    after all when the import fails, or when the user asked for a log level. Raises ImportError.
    """
    if LEVEL_VARIABLE in os.environ or "tensorflow" in sys.modules:
        importlib.import_module("tensorflow")
        return
    quiet_logs()
    with tempfile.TemporaryFile() as notes:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            _start_tensorflow()
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _start_tensorflow() -> None:
    tensorflow = importlib.import_module("tensorflow")
    tensorflow.get_logger().setLevel("ERROR")
    tensorflow.constant(0)  # finds the devices, which is when the last of the notes are written
