"""What all tests share: a home of their own, the command, and who stays together in a process."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite("tests.harness")
from tests.harness import certificates, logging_state  # noqa: E402
from tests.harness.command import Command  # noqa: E402

STARTERS = frozenset(
    {"cli", "command", "echo", "launch", "server", "servers", "start", "start_echo"}
    | {"start_python", "window"}
)
"""The fixtures that start processes."""
FIRST = (
    "tests/test_docs.py",
    "tests/compare/test_parity.py",
    "tests/stress/",
    "tests/test_empty_home.py",
    "tests/test_readme.py",
    "tests/test_contract.py",
    "tests/docker/",
    "tests/foreign/",
    "tests/report/",
    "tests/page/",
    "tests/launch/",
    "plugins/",
    "tests/tune/",
    "tests/test_",
)
"""Where the tests are that take longest, in the order in which they are begun. The short files come
last: none has a long one still before it when the others have nothing left to do."""
TOGETHER = re.compile(r"tests/(docker|foreign|page)/|plugins/[\w-]+/")
"""Folders whose tests run in one process, as they share what takes long to start: images, servers
of other projects, a browser, a framework."""


class _ByPlace(LoadScopeScheduling):
    """The tests of a file run in one process, and those of some folders."""

    def _split_scope(self, nodeid: str) -> str:
        together = TOGETHER.match(nodeid)
        return together[0] if together else nodeid.partition("::")[0]


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByPlace:
    """What spreads the tests. Not `--dist loadgroup`: pytest 9.2 does not show it the groups."""
    return _ByPlace(config, log)


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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Finds the tests without the garbage collector, which is a quarter of the work.

    What is found stays, and the collector would look through all of it time and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; marks what asks for a fixture that starts a process."""
    items.sort(key=_turn)
    for item in items:
        if isinstance(item, pytest.Function) and not STARTERS.isdisjoint(item.fixturenames):
            item.add_marker("server")


def pytest_collection_finish() -> None:
    """Spares the garbage collector the modules and the tests, which stay to the end."""
    gc.collect()
    gc.freeze()


def _turn(item: pytest.Item) -> int:
    turns = (turn for turn, place in enumerate(FIRST) if item.nodeid.startswith(place))
    return next(turns, len(FIRST))


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
