"""What the tests of core share: the command, and servers of the backend `echo`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mlserve.store import Store
from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO, EchoModel, manifest, put_version
from tests.harness.faulty import FaultyServers, Peer
from tests.harness.server import EchoServer, running

# The same examples each time: a rare find would make an unrelated change fail. New ones are looked
# for on purpose, with MLSERVE_FUZZ_EXAMPLES=20000. A busy machine is no fault of the code.
_EXAMPLES = os.environ.get("MLSERVE_FUZZ_EXAMPLES")
settings.register_profile(
    "mlserve",
    max_examples=int(_EXAMPLES or 100),
    derandomize=_EXAMPLES is None,
    database=None,
    deadline=None,
)
settings.load_profile("mlserve")


@pytest.fixture(scope="session", autouse=True)
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for what the clients of this run share: not that of other runs on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runtime")
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that the echo backend takes for an image."""
    path = tmp_path / "horse.jpg"
    path.write_bytes(PHOTO)
    return path


Export = Callable[..., Path]


@pytest.fixture
def export(home: Path) -> Export:
    """Writes a version of a model of the echo backend into the store; returns its base path."""

    def write(
        model: str = "m", version: int = 1, *, is_random: bool = False, **config: object
    ) -> Path:
        base = Store().base_path("echo", model)
        written = manifest(model, has_random_weights=is_random)
        put_version(base / str(version), manifest=written, **config)
        return base

    return write


StartEcho = Callable[..., EchoServer]


@pytest.fixture(scope="module")
def start_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEcho]:
    """`start_echo(delay=10)` starts a server whose model `inception_v3` is configured so.

    What stands before the configuration are flags of the server. It ends with the tests of the
    file: fifty idle servers, which all look for versions, take more than one CPU.
    """
    with _starting(tmp_path_factory) as start:
        yield start


@contextmanager
def _starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEcho]:
    with ExitStack() as stack:

        def start(*flags: str, **config: Any) -> EchoServer:
            model = EchoModel(tmp_path_factory.mktemp("echo") / "inception_v3")
            model.put(1, **config)
            server = running(model, model.base_path.with_name("log"), "--host=127.0.0.1", *flags)
            started = stack.enter_context(server)
            stack.callback(started.process.kill)  # what its clients left running is not awaited
            wait_until(started.has_loaded)
            return started

        yield start


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server that answers every image with `sorrel`, but refuses b"bad..."."""
    with _starting(tmp_path_factory) as start:
        yield start("--poll-seconds=1")


@pytest.fixture
def faulty() -> Iterator[Callable[[Peer], str]]:
    """`faulty(peer)` is the `host:port` of a server that treats each connection as `peer` says."""
    servers = FaultyServers()
    yield servers.start
    servers.end()
