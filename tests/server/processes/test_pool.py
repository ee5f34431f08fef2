"""What the server holds of runner processes when they die, or are ended, at a bad moment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer
from threading import Event
from typing import Any

import psutil
import pytest
from mlserve_echo import EchoBackend

from mlserve.admission.estimates import CostKey
from mlserve.background import run_on_daemon_thread
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, Unavailable
from mlserve.load_options import LoadOptions
from mlserve.server.engine.work import Work
from mlserve.server.models.loading import Served
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.channel import BOARD, LONG, Channel, pack
from mlserve.server.processes.pool import RunnerProcesses
from mlserve.server.processes.process import RunnerProcess
from mlserve.server.request import StageTimes
from mlserve.server.tfs.grpc import PredictCodec
from mlserve.settings import DEFAULT_SETTINGS, LogFormat
from mlserve.store import VersionPolicy
from mlserve.tensors import DType
from mlserve.testing.questions import request_of
from mlserve.wire.proto.serving_pb2 import PredictRequest
from tests.harness.echo import EchoModel

pytestmark = pytest.mark.server
MARK = b"another file" * 2 * BOARD
"""More than any message in these tests."""


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    return EchoModel(tmp_path / "m")


@pytest.fixture
def source(model: EchoModel) -> ModelSpec:
    return ModelSpec(EchoBackend(), "m", model.base_path, VersionPolicy(), LoadOptions(), 0.0)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def children() -> list[psutil.Process]:
    """Return the runner processes of this one, which may also have started other tests' servers."""
    every = psutil.Process().children()
    return [each for each in every if _is_runner(each)]


def _is_runner(process: psutil.Process) -> bool:
    try:
        return "mlserve.server.processes.child" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what happens in other processes sets no event
            await asyncio.sleep(0.01)


def test_a_long_request_is_kept_if_the_process_dies_before_it_is_sent(
    model: EchoModel, source: ModelSpec
) -> None:
    # Its buffers are written on a thread; the process is seen to be dead when that is done.
    model.put(1)
    told = list[str]()

    def end(process: RunnerProcess) -> None:
        told.append("end")
        process.detach()

    async def send() -> None:
        process = RunnerProcess(source, 1, LogFormat.TEXT)
        await run_on_daemon_thread(process.load)
        process.kill()
        await run_on_daemon_thread(process.cause)
        process.attach(lambda *_: told.append("message"), end)
        process.tell(pack(PickleBuffer(bytes(2 * LONG))), lambda: told.append("sent"))
        await becomes(lambda: bool(told))

    asyncio.run(send())
    assert told == ["end"]


def test_a_process_that_cannot_be_started_leaves_nothing_open(
    source: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = descriptors()
    with pytest.raises(BlockingIOError):
        RunnerProcess(source, 1, LogFormat.TEXT)
    assert descriptors() == before


def test_closing_ends_a_replacement_that_is_loading(model: EchoModel, source: ModelSpec) -> None:
    model.put(1)
    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)

    async def close_too_soon() -> int:
        await run_on_daemon_thread(pool.start)
        before = descriptors()
        pool.attach()
        (first,) = children()
        (model.base_path / "1" / "echo.json").write_text('{"load_delay": 60}')
        first.kill()
        await becomes(lambda: bool(children()) and first not in children())
        async with asyncio.timeout(15):
            await run_on_daemon_thread(pool.close)
        return before

    before = asyncio.run(close_too_soon())
    assert not children()
    assert descriptors() < before


def test_processes_that_die_together_are_all_replaced_at_once(
    model: EchoModel, source: ModelSpec
) -> None:
    model.put(1)
    pool = RunnerProcesses(source, 1, 4, LogFormat.TEXT, lambda: None)

    async def kill_all() -> None:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        for child in children():
            child.kill()
        await becomes(lambda: not pool.is_alive)
        await becomes(lambda: len(pool.states) == 4)
        await run_on_daemon_thread(pool.close)

    asyncio.run(kill_all())
    assert pool.restarts == 4


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGRTMIN + 6])
def test_a_process_is_replaced_whatever_signal_ends_it(
    number: int, model: EchoModel, source: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    # Most real-time signals have no name, and a call must not wait for a process that never comes.
    model.put(1)
    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)

    async def end_one() -> None:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        (first,) = children()
        first.send_signal(number)
        await becomes(lambda: pool.restarts == 1)
        await run_on_daemon_thread(pool.close)

    asyncio.run(end_one())
    assert f"(signal {number:d}, SIG" in caplog.text


def test_a_process_that_finds_another_model_does_not_answer_beside_the_others(
    model: EchoModel, source: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    # The version was overwritten, and the server has not loaded it again yet.
    model.put(1)
    config = model.base_path / "1" / "echo.json"
    first_config = config.read_text()
    pool = RunnerProcesses(source, 1, 2, LogFormat.TEXT, lambda: None)

    async def end_one() -> None:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        config.write_text('{"is_older": true}')  # it has a signature less
        children()[0].kill()
        await becomes(lambda: "are not those that it was loaded from" in caplog.text)
        assert (len(pool.states), pool.restarts) == (1, 0)
        config.write_text(first_config)
        await becomes(lambda: len(pool.states) == 2)
        await run_on_daemon_thread(pool.close)

    asyncio.run(end_one())
    assert pool.restarts == 1
    assert not children()


class Caller:
    """A caller who waits and knows nothing."""

    def has_left(self) -> bool:
        return False

    def enter(self, stage: int) -> None:
        pass

    def find_fault(self, *_: Any) -> None:
        return None

    def bring_forward(self, work: Work[Any]) -> None:
        pass


class Gone(Caller):
    """A caller who has left."""

    def has_left(self) -> bool:
        return True


class Leaving(Caller):
    """A caller who leaves."""

    left = False

    def has_left(self) -> bool:
        return self.left


def photo_codec(kind: type[PredictCodec] = PredictCodec) -> PredictCodec:
    request = request_of("m", b"photo")
    return kind(request.SerializeToString(), request)


def work_of(codec: PredictCodec, pool: RunnerProcesses, caller: Caller) -> Work[Any]:
    kind = CostKey.from_rows("m", 1, "serving_default", 1)
    served, times, deadline = Served("m", 1, False), StageTimes(), Deadline.after(20)
    return Work(codec, served, pool, DEFAULT_SETTINGS, kind, deadline, times, caller)


def test_any_number_of_calls_whose_callers_have_left_is_dropped_at_once(
    model: EchoModel, source: ModelSpec
) -> None:
    model.put(1)
    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)
    works = [work_of(photo_codec(), pool, Gone()) for _ in range(1000)]

    def submit_next(index: int) -> None:  # as the engine does when a slot is free again
        if index < len(works):
            pool.submit([works[index]], lambda _: submit_next(index + 1))

    async def submit_all() -> None:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        try:
            submit_next(0)
        finally:
            await run_on_daemon_thread(pool.close)

    asyncio.run(submit_all())
    assert all(isinstance(work.error, Unavailable) for work in works)


@pytest.mark.parametrize("copying", ["write", "read"])
def test_a_copy_that_goes_on_after_the_end_touches_no_other_file(
    copying: str, model: EchoModel, source: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shadow's process is ended while it is asked: what is opened next gets its descriptors.
    model.put(1)
    begun, goes_on, ended = Event(), Event(), Event()
    copy = getattr(Channel, copying)

    def held(channel: Channel, given: Any) -> Any:
        if not given.is_long:  # it is copied on the event loop
            return copy(channel, given)
        begun.set()
        assert goes_on.wait(20)
        try:
            return copy(channel, given)
        finally:
            ended.set()

    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)
    request = PredictRequest(model_spec={"name": "m", "signature_name": "identity_float32"})
    x = request.inputs["x"]
    x.dtype = DType.FLOAT32.tf_number  # type: ignore[assignment]
    x.tensor_content = bytes(2 * LONG)
    for size in (1, LONG // 2):
        x.tensor_shape.dim.add(size=size)
    codec = PredictCodec(request.SerializeToString(), request)

    async def end_meanwhile(others: list[int]) -> None:
        await run_on_daemon_thread(pool.start)
        monkeypatch.setattr(Channel, copying, held)
        pool.attach()
        pool.submit([work_of(codec, pool, Caller())], lambda _: None)
        await run_on_daemon_thread(begun.wait, 20)
        await pool.end()
        others += [os.memfd_create("another") for _ in range(8)]
        for other in others:
            os.write(other, MARK)
        goes_on.set()
        await run_on_daemon_thread(ended.wait, 20)

    others = list[int]()
    asyncio.run(end_meanwhile(others))
    found = [os.pread(other, 4 * LONG, 0) for other in others]
    for other in others:
        os.close(other)
    assert all(each == MARK for each in found)


class Heavy(PredictCodec):
    """A codec that there is no memory to copy."""

    def __reduce__(self) -> Any:
        raise MemoryError


def test_a_call_that_cannot_be_sent_fails_and_the_next_one_is_run(
    model: EchoModel, source: ModelSpec
) -> None:
    model.put(1)
    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)

    async def run(codec: PredictCodec) -> Work[Any]:
        done = asyncio.get_running_loop().create_future()
        work = work_of(codec, pool, Caller())
        pool.submit([work], done.set_result)
        await done
        return work

    async def run_both() -> tuple[Work[Any], Work[Any]]:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        try:
            return await run(photo_codec(Heavy)), await run(photo_codec())
        finally:
            await run_on_daemon_thread(pool.close)

    failed, answered = asyncio.run(run_both())
    assert isinstance(failed.error, InferenceFailed)
    assert answered.error is None
    assert b"sorrel" in answered.result[1]


def test_a_process_imports_every_protocol_before_its_first_request(source: ModelSpec) -> None:
    process = RunnerProcess(source, 1, LogFormat.TEXT)
    process.kill()
    process.cause()
    process.detach()
    assert PredictCodec.__module__ in process.to_load.codecs


def test_a_call_whose_caller_leaves_does_not_wait_for_a_process_that_loads(
    model: EchoModel, source: ModelSpec
) -> None:
    # It holds a slot of the server, which the other models need meanwhile.
    model.put(1)
    pool = RunnerProcesses(source, 1, 1, LogFormat.TEXT, lambda: None)

    async def leave() -> Work[Any]:
        await run_on_daemon_thread(pool.start)
        pool.attach()
        (model.base_path / "1" / "echo.json").write_text('{"load_delay": 60}')
        children()[0].kill()
        await becomes(lambda: not pool.is_alive)
        caller, done = Leaving(), asyncio.get_running_loop().create_future()
        work = work_of(photo_codec(), pool, caller)
        pool.submit([work], done.set_result)
        assert work.elsewhere is not None
        assert work.elsewhere.stage == 0
        caller.left = True
        work.elsewhere.leave()
        async with asyncio.timeout(20):
            await done
        await run_on_daemon_thread(pool.close)
        return work

    assert isinstance(asyncio.run(leave()).error, Unavailable)
