"""What the tests of the export share: servers that have a collector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.exporting import Start
from tests.harness.server import EchoServer, EchoServers


@pytest.fixture
def start_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start_with(*flags, NAME=value, ...)` starts a server with these variables."""
    with ExitStack() as stack:
        servers = EchoServers(tmp_path, stack)

        def start(*flags: str, **variables: str) -> EchoServer:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            return servers(*flags)

        yield start
