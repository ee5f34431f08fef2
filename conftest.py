"""What all tests share: a home of their own, the command, and who stays together in a process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite("tests.harness")
from tests.harness import certificates, logging_state  # noqa: E402
from tests.harness.command import Command  # noqa: E402

STARTERS = frozenset(("cli", "command", "launch", "server", "servers", "start", "start_echo"))
"""The fixtures that start processes."""
LONGEST = (
    "tests/test_docs.py",
    "tests/compare/test_parity.py",
    "tests/test_readme.py",
    "tests/test_empty_home.py",
    "plugins/torch/tests/test_torchserve_native.py",
    "plugins/torch/tests/test_conformance.py",
    "plugins/tfserving/tests/test_conformance.py",
    "plugins/models/tests/test_whole_path.py",
)
"""The files that take a minute or more: begun first, none still runs when all others are done."""


class _ByFile(LoadScopeScheduling):
    """A file's tests run in one process, and all that need Docker, as they share images."""

    def _split_scope(self, nodeid: str) -> str:
        return "docker" if nodeid.startswith("tests/docker/") else nodeid.partition("::")[0]


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """What spreads the tests. Not `--dist loadgroup`: pytest 9.2 does not show it the groups."""
    return _ByFile(config, log)


@pytest.hookimpl
def pytest_xdist_auto_num_workers() -> int:
    """What `-n logical` means: one more than there are CPUs, as tests wait for processes."""
    return (os.cpu_count() or 1) + 1


def pytest_configure() -> None:
    """Lets the commands that tests start be interrupted, and start fast; and httpx be fast.

    A shell starts what it runs in the background with SIGINT ignored, and every process below would
    inherit that. And numpy's OpenBLAS in each of the thousand processes that import it would keep a
    core busy for 0.1 s in its further threads, waiting for work.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    certificates.read_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; marks what asks for a fixture that starts a process."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    for item in items:
        if isinstance(item, pytest.Function) and not STARTERS.isdisjoint(item.fixturenames):
            item.add_marker("server")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Lets a test draw the same first weights whenever it runs, with the frameworks in use."""
    for framework, seed in (("keras", "utils.set_random_seed"), ("torch", "manual_seed")):
        if (module := sys.modules.get(framework)) is not None:
            attrgetter(seed)(module)(0)


@pytest.fixture(scope="module", autouse=True)
def logging_unchanged() -> Iterator[None]:
    """A module that leaves logging changed fails itself, and not what is run after it."""
    with logging_state.unchanged():
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that MLSERVE_HOME names, for this test and the processes it starts."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MLSERVE_HOME", str(folder))
    return folder


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Iterator[Command]:  # noqa: ARG001 - its records
    """The command line. Every process that it or its servers started is gone after the test."""
    command = Command(tmp_path)
    yield command
    command.end()
