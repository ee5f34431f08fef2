"""Golden questions that fail, hang or come at a bad moment, and what becomes of the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve.backend import RunsOn
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase
from mlserve.errors import DeadlineExceeded, Overloaded
from mlserve.server.engine import examiner as module
from mlserve.server.engine.examiner import Examiner
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.standing import CertificateState, Standing
from mlserve.tensors import DType, Signature, TensorSpec

pytestmark = pytest.mark.anyio
CERTIFICATE = Certificate("numpy", 3, 1e-4, 0.0, None, None, "a test")
SPEC = (TensorSpec("x", DType.FLOAT32, (None,)),)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class DoublingRunner:
    """Doubles its input, once it has done what the test wants."""

    def __init__(self) -> None:
        self.signatures: Mapping[str, Signature] = {"s": Signature("s", SPEC, SPEC)}
        self.before: Callable[[float], object] = lambda x: None
        self.asked: list[float] = []
        self.is_running = False
        self.closed_while_running: bool | None = None

    def run(self, signature: str, inputs: Any, deadline: object = None) -> Any:
        self.is_running = True
        try:
            self.asked.append(float(inputs["x"][0]))
            self.before(self.asked[-1])
            return {"x": inputs["x"] * 2}
        finally:
            self.is_running = False

    def close(self) -> None:
        self.closed_while_running = self.is_running


class OneEngine:
    """The models and the engine of a server, as far as an Examiner sees them."""

    def __init__(self) -> None:
        self.versions: list[LoadedVersion] = []
        self.unfinished = 0
        self.is_draining = False
        self.changes = 0
        self.examiner = Examiner(self, self, self._on_change, probe_seconds=3600)  # type: ignore[arg-type]

    def _on_change(self) -> None:
        self.changes += 1

    def loaded(self) -> Iterator[LoadedVersion]:
        yield from self.versions

    def add(self, *questions: float) -> tuple[DoublingRunner, LoadedVersion]:
        """Serve a version with these golden inputs, none of which has been asked."""
        runner, version = DoublingRunner(), len(self.versions) + 1
        cases = [
            GoldenCase(f"{x:g}", "s", {"x": numbers(x)}, {"x": numbers(2 * x)}, {}, None)
            for x in questions
        ]
        standing = Standing(RunsOn("Runtime 1", "fp32", "CPU"), CERTIFICATE, cases)
        artifact: Any = SimpleNamespace(model="m", version=version, manifest=None)
        self.versions.append(LoadedVersion(artifact, runner, standing=standing))
        return runner, self.versions[-1]


def numbers(x: float) -> Any:
    return np.array([x], np.float32)


def fail_with(error: BaseException) -> Callable[[float], object]:
    def fail(_: float) -> None:
        raise error

    return fail


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of this loop
            await asyncio.sleep(0.001)


class Panic(BaseException):
    """As a runtime in Rust raises it."""


@pytest.mark.parametrize("error", [RuntimeError("no such kernel"), Panic("no such kernel")])
async def test_whatever_a_runtime_raises_is_a_wrong_answer_and_the_next_are_asked(
    error: BaseException,
) -> None:
    server = OneEngine()
    broken, first = server.add(1.0)
    fine, second = server.add(1.0)
    broken.before = fail_with(error)
    await server.examiner.ask_due()
    assert first.standing.state is CertificateState.DRIFTED
    assert first.fault is not None
    assert second.standing.state is CertificateState.HOLDS
    assert (len(fine.asked), server.changes) == (1, 2)


@pytest.mark.parametrize(
    "error", [DeadlineExceeded("in the queue for 60 s"), Overloaded("no memory for the image")]
)
async def test_want_of_time_or_memory_says_nothing_about_the_answers(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server = OneEngine()
    runner, loaded = server.add(1.0, 2.0)
    runner.before = fail_with(error)
    await server.examiner.ask_due()
    await server.examiner.ask_due()
    assert (loaded.fault, loaded.standing.state) == (None, CertificateState.CHECKING)
    assert runner.asked == [1.0], "it is not asked again at once"
    assert f"golden input 1 is not answered: {error}" in caplog.text


async def test_a_question_that_is_never_answered_keeps_no_other_version_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    server, go = OneEngine(), threading.Event()
    hung, first = server.add(1.0, 2.0)
    fine, _ = server.add(1.0, 2.0)
    hung.before = lambda _: go.wait()
    for _ in range(2):
        await server.examiner.ask_due()
    assert (hung.asked, fine.asked) == ([1.0], [1.0, 2.0])
    assert "version 1 of m has not answered golden input 1 within 0.5 s" in caplog.text
    closing = asyncio.create_task(first.close())
    go.set()
    await closing
    assert hung.closed_while_running is False


async def test_a_runner_is_not_closed_while_a_question_runs_though_the_examiner_has_ended() -> None:
    server, go = OneEngine(), threading.Event()
    runner, loaded = server.add(1.0)
    runner.before = lambda _: go.wait()
    asking = asyncio.create_task(server.examiner.ask_due())
    await until(lambda: runner.is_running)
    asking.cancel()
    closing = asyncio.create_task(loaded.close())
    await asyncio.wait((asking,))
    closed, _ = await asyncio.wait((closing,), timeout=0.05)
    assert not closed
    go.set()
    await closing
    assert runner.closed_while_running is False


async def test_a_version_that_was_unloaded_meanwhile_is_not_asked() -> None:
    server, go = OneEngine(), threading.Event()
    slow, _ = server.add(1.0)
    gone, second = server.add(1.0)
    slow.before = lambda _: go.wait()
    asking = asyncio.create_task(server.examiner.ask_due())
    await until(lambda: slow.is_running)
    server.versions.pop()
    await second.close()
    go.set()
    await asking
    assert not gone.asked


async def test_no_question_begins_while_calls_run() -> None:
    server, go = OneEngine(), threading.Event()
    slow, _ = server.add(1.0)
    other, _ = server.add(1.0)
    slow.before = lambda _: go.wait()
    asking = asyncio.create_task(server.examiner.ask_due())
    await until(lambda: slow.is_running)
    server.unfinished = 1
    go.set()
    await asking
    assert not other.asked


async def test_thousands_of_questions_do_not_wait_for_a_look_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At one a look, 3,000 golden inputs took over twelve minutes."""
    monkeypatch.setattr(module, "_ASK_SECONDS", 600.0)
    server, questions = OneEngine(), [float(x) for x in range(1, 301)]
    runner, loaded = server.add(*questions)
    runner.before = lambda x: setattr(server, "unfinished", int(x == 100))
    await server.examiner.ask_due()
    assert runner.asked == questions[:100], "a request has come"
    assert loaded.standing.state is CertificateState.CHECKING
    server.unfinished = 0
    await server.examiner.ask_due()
    assert runner.asked == questions, "then they have all been asked"
    assert loaded.standing.state is CertificateState.HOLDS


async def test_a_version_recovers_as_fast_as_its_questions_are_answered_right() -> None:
    server, questions = OneEngine(), [1.0, 2.0, 3.0]
    runner, loaded = server.add(*questions)
    runner.before = fail_with(RuntimeError("another CPU"))
    for _ in questions:
        await server.examiner.ask_due()
    assert len(loaded.standing.problems) == 3
    await server.examiner.ask_due()
    assert len(runner.asked) == 3, "a wrong one is asked again a while later"
    runner.before = lambda _: None
    loaded.standing.asked_at -= 60
    for _ in questions:
        await server.examiner.ask_due()
    assert (loaded.standing.state, loaded.fault) == (CertificateState.HOLDS, None)


async def test_the_examiner_outlives_a_fault_in_a_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.001)
    server = OneEngine()
    runner, _ = server.add(1.0)
    whole, looks = server.loaded, iter([KeyError("m")])

    def loaded() -> Iterator[LoadedVersion]:
        if (fault := next(looks, None)) is not None:
            raise fault
        return whole()

    monkeypatch.setattr(server, "loaded", loaded)
    running = asyncio.create_task(server.examiner.run())
    await until(lambda: runner.asked)
    running.cancel()
    assert "asking the golden inputs failed" in caplog.text
