"""A file system that does not answer: it holds neither the event loop nor the end of the process.

The system calls hang for real, on pipes that nobody writes: in a look at the version folders, in
the close of a model, in the configuration of the models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve.testing.processes import wait_until
from tests.harness.server import EchoServer, running

_SERVER = """
import sys
from pathlib import Path
import mlserve_echo_runner
from mlserve import store
from mlserve.server.models import folders

def hangs_once_there_is(pipe, real):
    def call(*args):
        if pipe.exists():
            pipe.read_bytes()
        return real(*args)
    return call

folder = Path(sys.argv[1])
look = hangs_once_there_is(folder / "look", store.folders_by_version)
store.folders_by_version = folders.folders_by_version = look
runner = mlserve_echo_runner.EchoRunner
runner.close = hangs_once_there_is(folder / "close", runner.close)

from mlserve.server.__main__ import main
sys.argv[1:2] = []
main()
"""


class Pipes:
    """Pipes in a folder; whoever reads one hangs until it is let go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: list[int] = []

    def make(self, name: str) -> None:
        os.mkfifo(self.folder / name)

    def is_read(self, name: str) -> bool:
        """Whether somebody has opened it; from then on it hangs in reading."""
        with suppress(OSError):  # nobody yet
            self._held.append(os.open(self.folder / name, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    def let_go(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    folder = tmp_path / "pipes"
    folder.mkdir()
    pipes = Pipes(folder)
    yield pipes
    pipes.let_go()


@pytest.fixture
def launch_hanging(model: Any, pipes: Pipes, tmp_path: Path) -> Iterator[Callable[..., EchoServer]]:
    program = ("-c", _SERVER, str(pipes.folder))
    with ExitStack() as stack:

        def launch(*options: str) -> EchoServer:
            server = running(model, tmp_path / "log", *options, program=program)
            launched = stack.enter_context(server)
            stack.callback(launched.process.kill)
            return launched

        yield launch


def ends(server: EchoServer) -> None:
    """It ends at once and in order after SIGTERM, however much hangs."""
    began = time.monotonic()
    server.process.terminate()
    assert server.exit_code() == 0, server.log()
    assert time.monotonic() - began < 15, server.log()
    assert "Traceback" not in server.log()


@pytest.mark.server
def test_a_look_that_hangs_holds_neither_answers_nor_the_end(
    model: Any, pipes: Pipes, launch_hanging: Callable[..., EchoServer]
) -> None:
    model.put(1)
    server = launch_hanging()
    wait_until(server.is_available)
    pipes.make("look")
    wait_until(lambda: pipes.is_read("look"))
    assert server.post({"inputs": ["x"]}).json() == {"outputs": ["sorrel"]}
    ends(server)


@pytest.mark.server
def test_a_first_look_that_hangs_does_not_hold_the_end(
    model: Any, pipes: Pipes, launch_hanging: Callable[..., EchoServer]
) -> None:
    pipes.make("look")
    server = launch_hanging()
    wait_until(lambda: pipes.is_read("look"))
    ends(server)


@pytest.mark.server
def test_a_model_whose_close_hangs_does_not_hold_the_end(
    model: Any, pipes: Pipes, launch_hanging: Callable[..., EchoServer]
) -> None:
    model.put(1)
    server = launch_hanging("--drain-timeout", "1")
    wait_until(server.is_available)
    pipes.make("close")
    ends(server)
    assert "stopping with a model that was not unloaded within" in server.log()


@pytest.mark.server
def test_a_manifest_that_hangs_holds_neither_health_nor_the_end(
    model: Any, launch_hanging: Callable[..., EchoServer]
) -> None:
    """A pipe in place of a file of the version folder: the load hangs in reading it."""
    folder = model.put(1)
    (folder / "echo.json").unlink()
    os.mkfifo(folder / "echo.json")
    server = launch_hanging()
    server.wait_listening()
    wait_until(lambda: server.state(1) == "LOADING")
    assert httpx.get(f"http://{server.rest}/v2/health/live", timeout=5).status_code == 200
    ends(server)
