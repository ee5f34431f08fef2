"""Model servers of the echo backend, and their models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.echo import put_version
from tests.harness.model_server import ECHO, ModelServer, started


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., ModelServer]]:
    """Starts a server of echo models; the arguments are its flags."""
    with ExitStack() as servers:
        yield lambda *flags: servers.enter_context(started(ECHO, tmp_path / "log", *flags))


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes an echo model `<model>/<version>`, whose label is that path; returns its folder."""

    def write(path: str, **config: Any) -> Path:
        return put_version(tmp_path / path, **{"label": path, **config})

    return write
