"""`pytest --mlserve-backend NAME`: run the conformance suite on an installed backend.

pytest loads this module in every run in an environment that has mlserve, so it imports the rest of
mlserve only when it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_SUITE = Path(__file__).with_name("testing") / "suite.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("mlserve", "conformance of mlserve backends")
    group.addoption(
        "--mlserve-backend",
        metavar="NAME",
        help="run mlserve's conformance suite on this backend, in place of the tests here",
    )
    group.addoption(
        "--mlserve-model",
        metavar="DIR",
        help="the model that the suite serves: a folder with numbered version folders; by default "
        "the backend's own sample",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the suite, unless files were named. Raises UsageError for an unknown backend."""
    config.addinivalue_line("markers", "server: starts a process or waits on whole commands")
    import pytest

    name = config.getoption("--mlserve-backend")
    if name is None:
        if config.getoption("--mlserve-model") is not None:
            raise pytest.UsageError("--mlserve-model needs --mlserve-backend NAME")
        return
    from mlserve import plugins
    from mlserve.errors import MlserveError

    try:
        plugins.backend(name)
    except MlserveError as error:
        raise pytest.UsageError(f"{error.message}\n{error.hint}") from error
    if config.args_source is not config.ArgsSource.ARGS:
        config.args = [str(_SUITE)]
