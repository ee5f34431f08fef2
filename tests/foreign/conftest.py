"""Real servers of other projects, started once for all of them, on ports of the system's choice.

Tests marked `foreign` run against them; where an environment could not be built they are skipped,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlserve.testing.images import plain
from tests.foreign.servers import ForeignServer, running


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ForeignServer]]:
    """`servers(name)` is the running server of that name, started when it is first wanted."""
    with ExitStack() as stack:
        found: dict[str, ForeignServer] = {}

        def get(name: str) -> ForeignServer:
            if name not in found:
                folder = tmp_path_factory.mktemp(name)
                found[name] = stack.enter_context(running(name, folder))
            return found[name]

        yield get


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Any) -> Iterator[ForeignServer]:
    """The server that the test names, by parameter; all its gates are open afterwards."""
    found: ForeignServer = servers(request.param)
    yield found
    found.clear()


@pytest.fixture
def triton(servers: Any) -> Iterator[ForeignServer]:
    found: ForeignServer = servers("triton")
    yield found
    found.clear()


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForeignServer]:
    """A server of the test's own, which it may kill."""
    with running(request.param, tmp_path / request.param) as found:
        yield found


@pytest.fixture(scope="package")
def green() -> bytes:
    """A PNG file, which is not UTF-8, that every model calls green."""
    return plain("green", "PNG")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG file that every model calls red."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(plain("red"))
    return path
