"""Import TensorFlow and its companions quietly, without side effects on the process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlserve.distributions import MODELS, install_command

INSTALL_HINT = install_command(f"{MODELS}[all]")

_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # read once, when its library is loaded; errors are raised anyway
    "KERAS_BACKEND": "tensorflow",
}


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside a `with` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def framework_imports() -> Iterator[None]:
    """Guard imports of modules that need TensorFlow; restore the process' state afterwards.

    The packages' warnings about one another (tensorflow-hub imports pkg_resources) do not concern
    the user. An ImportError reaches `mlserve.export`, which distinguishes absent from broken.
    """
    with environment(_QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
