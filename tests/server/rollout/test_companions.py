"""Who is asked: another server, whatever it does, and a version that comes, fails and changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, UsageError
from mlserve.load_options import LoadOptions
from mlserve.server.engine.work import Kept
from mlserve.server.models.versions import ModelSpec
from mlserve.server.rollout.companions import OtherServer, VersionInProcess
from mlserve.server.rollout.mirror import Question
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from mlserve.wire.rollouts import RolloutState
from tests.harness.echo import EchoModel
from tests.harness.faulty import HTTP2_SETTINGS, Line, Peer, answering
from tests.harness.server import EchoServer

pytestmark = pytest.mark.server


def question(api: str = "tfs") -> Question:
    kept = Kept("serving_default", {"image": np.array([b"x"], object)}, {})
    return Question("id", api, kept, 1, time.monotonic())


def _http_drip(line: Line) -> None:
    line.await_bytes()
    line.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")


def _http_flood(line: Line) -> None:
    line.await_request()
    line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.flood(b"100000\r\n" + b" " * 2**20 + b"\r\n")


def _grpc_stall(line: Line) -> None:
    line.send(HTTP2_SETTINGS)
    line.stall()


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
ODD: dict[str, tuple[str, Peer]] = {
    "http says nothing": ("http://", Line.stall),
    "http drips": ("http://", _http_drip),
    "http floods": ("http://", _http_flood),
    "http resets": ("http://", Line.drop),
    "http says something else": ("http://", answering(HTML)),
    "http sends elsewhere": ("http://", answering(MOVED)),
    "http is no TLS": ("https://", answering(HTML)),
    "grpc says nothing": ("", _grpc_stall),
    "grpc resets": ("", Line.drop),
    "grpc is something else": ("grpc://", answering(b"\xff" * 100)),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_server_is_an_error_in_time(faulty: Callable[[Peer], str], case: str) -> None:
    scheme, peer = ODD[case]

    async def check() -> None:
        other = OtherServer(scheme + faulty(peer), "m", None)
        with pytest.raises(MlserveError) as failed:
            async with asyncio.timeout(10):  # a hang would be seen, not how fast it is
                await other.ask(question(), Deadline.after(1))
        assert failed.value.message
        async with asyncio.timeout(10):
            await other.close()

    asyncio.run(check())


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("api", ["tfs", "oip", ""])
def test_a_server_without_that_model_says_so(server: EchoServer, protocol: str, api: str) -> None:
    async def check() -> None:
        there, not_there = (OtherServer(server.endpoint(protocol), m, None) for m in ("m", "n"))
        assert (await there.ask(question(api), Deadline.after(10)))["output_0"][0] == b"sorrel"
        with pytest.raises(MlserveError):
            await not_there.ask(question(api), Deadline.after(10))
        for each in (there, not_there):
            await each.close()

    asyncio.run(check())


def test_what_is_no_endpoint_and_no_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an endpoint"):
        OtherServer("http://here:1/v1/models/m", "m", None)
    with pytest.raises(UsageError, match="cannot be read"):
        OtherServer("here:1", "m", tmp_path / "nowhere")


class Followed:
    """A version in a process, and how often it was loaded."""

    def __init__(self, model: EchoModel, **changes: Any) -> None:
        self.loads = 0
        source = ModelSpec(
            plugins.backend("echo"),
            model.name,
            model.base_path,
            VersionPolicy(aside=2),
            LoadOptions(),
            poll_seconds=changes.get("poll_seconds", 0.02),
        )
        self.version = VersionInProcess(source, 2, ServerSettings(), self._note_load)

    def _note_load(self) -> None:
        self.loads += 1

    async def label(self) -> bytes:
        answer = await self.version.ask(question(), Deadline.after(10))
        label: bytes = answer["output_0"][0]
        return label

    async def until(self, state: RolloutState, loads: int, error: str = "") -> None:
        """Wait until it is so; `error` is the end of its error."""
        async with asyncio.timeout(40):
            while not self._is(state, loads, error):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)

    def _is(self, state: RolloutState, loads: int, error: str) -> bool:
        version = self.version
        return (version.state, self.loads) == (state, loads) and version.error.endswith(error)


@asynccontextmanager
async def followed(model: EchoModel, **changes: Any) -> AsyncIterator[Followed]:
    made = Followed(model, **changes)
    following = asyncio.create_task(made.version.follow())
    try:
        yield made
    finally:
        await made.version.close()
        async with asyncio.timeout(10):
            await following


@pytest.mark.alone
def test_a_version_that_comes_fails_and_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = EchoModel(tmp_path / "m")

    async def check() -> None:
        async with followed(model) as made:
            await made.until(RolloutState.FAILED, 0, "has no version 2")
            folder = model.put(2, fail_load="the file is half there")
            await made.until(RolloutState.FAILED, 0, "the file is half there")
            (folder / "echo.json").write_text('{"label": "one"}')
            await made.until(RolloutState.RUNNING, 1)
            assert made.version.error == ""
            assert await made.label() == b"one"

            (folder / "echo.json").write_text('{"label": "two", "delay": 60}')
            await made.until(RolloutState.RUNNING, 2)
            asking = asyncio.create_task(made.label())
            (folder / "echo.json").write_text('{"label": "three"}')
            with pytest.raises(MlserveError, match="its process was ended meanwhile"):
                await asking
            await made.until(RolloutState.RUNNING, 3)
            assert await made.label() == b"three"

    asyncio.run(check())
    failures = [record for record in caplog.records if record.levelname == "ERROR"]
    again = "; it is tried again in 60 s, and once its files have changed"
    assert [record.getMessage().partition(": ")[2] for record in failures] == [
        f"{model.base_path} has no version 2{again}",
        f"the file is half there{again}",
    ]


def test_a_failure_is_tried_again_after_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlserve.server.rollout.companions._FIRST_RETRY", 0.01)
    model = EchoModel(tmp_path / "m")

    async def check() -> None:
        async with followed(model, poll_seconds=0) as made:
            await made.until(RolloutState.FAILED, 0)
            model.put(2, label="two")
            await made.until(RolloutState.RUNNING, 1)

    asyncio.run(check())
