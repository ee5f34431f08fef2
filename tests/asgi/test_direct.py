"""Calls to a mounted server from its own process: the answers and the errors of a client."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from fastapi import FastAPI

import mlserve.server
from mlserve import (
    AsyncClient,
    Deadline,
    DeadlineExceeded,
    InputTooLarge,
    MlserveError,
    ModelLoadFailed,
    NotAnImage,
    NotFound,
    Overloaded,
    Unavailable,
    UsageError,
)
from mlserve.artifact import Artifact
from mlserve.asgi import mounted
from mlserve.asgi.mounted import MountedServer
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import Job
from mlserve.server.parts import ServerParts
from mlserve.server.telemetry.log import TextFormatter
from mlserve.testing.processes import launched, wait_until
from tests.conftest import Export
from tests.harness.echo import PHOTO


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """What a version that is exported with this path holds, as `slow`, ends once it is a file."""
    return tmp_path / "released"


def _during(serving: MountedServer, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return what `ask` returns while the server runs."""

    async def run() -> Any:
        async with serving:
            return await ask()

    return asyncio.run(run())


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing else would say so
        await asyncio.sleep(0.001)


async def _running(serving: MountedServer, count: int) -> None:
    """Wait until that many calls hold a slot."""
    await _until(lambda: _engine(serving).running == count)


def _parts(serving: MountedServer) -> ServerParts:
    assert serving._run is not None
    return serving._run.parts


def _engine(serving: MountedServer) -> Engine:
    return _parts(serving).engine


def test_infer_returns_the_outputs_that_are_asked_for(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> None:
        both = await serving.infer({"a": [1, 2], "b": [3, 4]}, signature="two")
        assert {name: array.tolist() for name, array in both.items()} == {
            "sum": [4.0, 6.0],
            "product": [3.0, 8.0],
        }
        assert all(array.dtype == np.float32 for array in both.values())
        one = await serving.infer({"a": [1], "b": [2]}, signature="two", outputs=["sum"])
        assert list(one) == ["sum"]
        label = await serving.infer({"image": [PHOTO, PHOTO]})
        assert label["output_0"].tolist() == [b"sorrel", b"sorrel"]

    _during(serving, ask)


def test_predict_gives_what_a_client_gets_from_a_server_of_the_same_folder(
    export: Export, tmp_path: Path
) -> None:
    path = export(is_random=True, k=2)
    serving = mlserve.server.mount(path=path)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO)

    async def ask() -> None:
        for top_k in (None, 1, 3, 9):
            here = await serving.predict(photo, top_k=top_k)
            async with AsyncClient(server.grpc) as client:
                there = await client.predict(photo, top_k=top_k)
            for name in (
                "label",
                "scores",
                "model",
                "version",
                "has_random_weights",
                "shortfall",
                "served_by",
                "rungs",
            ):
                assert getattr(here, name) == getattr(there, name), (name, top_k)
            assert here.timings.total >= (here.timings.run or 0) > 0
            assert here.to_json().keys() == there.to_json().keys()

    artifact = Artifact.open(path, "m", 1)
    with launched("echo", artifact) as server:
        server.wait_ready()
        _during(serving, ask)


BAD = (
    (NotAnImage, lambda ask: ask.predict(b"bad")),
    (UsageError, lambda ask: ask.predict("/nowhere.jpg")),
    (UsageError, lambda ask: ask.predict(PHOTO, top_k=0)),
    (UsageError, lambda ask: ask.predict(PHOTO, timeout=-1)),
    (DeadlineExceeded, lambda ask: ask.predict(PHOTO, timeout=1e-9)),
)


@pytest.mark.parametrize(("kind", "call"), BAD)
def test_predict_raises_what_a_client_raises(
    export: Export, echo: Any, kind: type[MlserveError], call: Callable[[Any], Any]
) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> None:
        with pytest.raises(kind) as here:
            await call(serving)
        async with AsyncClient(echo.endpoint("rest")) as client:
            with pytest.raises(kind) as there:
                await call(client)
        assert type(here.value) is type(there.value)

    _during(serving, ask)


ASKED = (
    ({"image": [PHOTO, PHOTO]}, {}),
    ({"image": np.array([PHOTO], object)}, {"signature": "top_k", "outputs": ["scores", "labels"]}),
    ({"a": [1, 2], "b": np.ones(2)}, {"signature": "two"}),
    ({"x": [[1.5]]}, {"signature": "identity_float16"}),
    ({"x": [True]}, {"signature": "identity_bool"}),
    ({"x": ["\u00e9", b"\xff\0"]}, {"signature": "identity_bytes"}),
    ({"x": np.array([2**63], np.uint64)}, {"signature": "identity_uint64"}),
)
REFUSED = (
    ({"image": [PHOTO]}, {"signature": "ten"}),
    ({"image": [PHOTO]}, {"signature": 10}),
    ({"image": [PHOTO]}, {"outputs": ["scor"]}),
    ({"image": [PHOTO]}, {"outputs": []}),
    ({"imag": [PHOTO]}, {}),
    ({}, {}),
    ([PHOTO], {}),
    ({"image": PHOTO}, {}),
    ({"image": [[PHOTO]]}, {}),
    ({"x": [2.5]}, {"signature": "identity_int32"}),
    ({"x": np.array([2**40])}, {"signature": "identity_int32"}),
    ({"x": [[1], [2, 3]]}, {"signature": "identity_float32"}),
    ({"seconds": [1]}, {"signature": "crash"}),
    ({"a": [-1.0]}, {"signature": "fragile"}),
)


@pytest.mark.parametrize(("inputs", "options"), ASKED)
def test_infer_gives_what_a_client_gets(
    export: Export, echo: Any, inputs: Any, options: dict[str, Any]
) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> None:
        here = await serving.infer(inputs, **options)
        async with AsyncClient(echo.endpoint("rest"), api="oip") as client:
            there = await client.infer(inputs, **options)
        assert list(here) == list(there)
        for name, array in there.items():
            assert here[name].dtype == array.dtype
            np.testing.assert_array_equal(here[name], array)
        assert here.signature == there.signature
        assert here.to_json().keys() == there.to_json().keys()
        assert here.timings.total >= (here.timings.run or 0) > 0

    _during(serving, ask)


@pytest.mark.parametrize(("inputs", "options"), REFUSED)
def test_infer_refuses_what_a_client_refuses_in_its_words(
    export: Export, echo: Any, inputs: Any, options: dict[str, Any]
) -> None:
    export("inception_v3")
    serving = mlserve.server.mount()

    async def ask() -> None:
        with pytest.raises(MlserveError) as here:
            await serving.infer(inputs, **options)
        async with AsyncClient(echo.endpoint("rest"), api="tfs") as client:
            with pytest.raises(MlserveError) as there:
                await client.infer(inputs, **options)
        assert type(here.value) is type(there.value)
        assert here.value.message in there.value.message
        assert (await serving.predict(PHOTO)).label == "sorrel"

    _during(serving, ask)


def test_infer_names_a_model_or_version_that_is_not_there(export: Export) -> None:
    export()
    serving = mlserve.server.mount(max_batch_length=2)

    async def ask() -> None:
        with pytest.raises(NotFound, match="version 9"):
            await serving.infer({"image": [PHOTO]}, version=9)
        with pytest.raises(NotFound, match="any versions of model n"):
            await serving.infer({"image": [PHOTO]}, model="n")
        with pytest.raises(InputTooLarge, match="max-batch-length"):
            await serving.infer({"image": [PHOTO] * 3})

    _during(serving, ask)


def test_a_late_call_ends_in_time_and_one_too_many_is_refused(
    export: Export, released: Path
) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1, max_queue=0)

    async def ask() -> None:
        slow = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow", timeout=1))
        await _running(serving, 1)
        with pytest.raises(Overloaded, match="the queue is full") as refused:
            await serving.predict(PHOTO, timeout=Deadline.after(5))
        assert refused.value.retry_after is not None
        with pytest.raises(DeadlineExceeded, match=r"within 1 s"):
            await slow
        let_go()
        await _running(serving, 0)
        assert (await serving.predict(PHOTO)).label == "sorrel"

    _during(serving, ask)


def test_a_critical_call_displaces_one_that_waits(export: Export, released: Path) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1, max_queue=1)

    async def ask() -> None:
        slow = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow"))
        await _running(serving, 1)
        waiting = asyncio.create_task(serving.predict(PHOTO, priority="sheddable"))
        await _until(lambda: _engine(serving).waiting == 1)
        critical = asyncio.create_task(serving.predict(PHOTO, priority="critical"))
        with pytest.raises(Overloaded):
            await waiting
        let_go()
        assert (await critical).label == "sorrel"
        await slow
        with pytest.raises(UsageError, match="x-request-priority must be sheddable"):
            await serving.predict(PHOTO, priority="high")  # type: ignore[arg-type]

    _during(serving, ask)


def test_a_cancelled_call_leaves_the_queue(export: Export, released: Path) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1)

    async def ask() -> None:
        first = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow"))
        await _running(serving, 1)
        second = asyncio.create_task(serving.predict(PHOTO))
        await _until(lambda: _engine(serving).waiting == 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert _engine(serving).unfinished == 1
        let_go()
        await first

    _during(serving, ask)


def test_the_end_of_the_block_waits_for_calls_and_then_refuses_them(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def run() -> None:
        async with serving:
            assert serving.is_ready
            slow = asyncio.create_task(serving.infer({"seconds": [0.3]}, signature="slow"))
            await _running(serving, 1)
        assert not serving.is_ready
        assert slow.done()
        assert (await slow)["done"].tolist() == [np.float32(0.3)]
        with pytest.raises(Unavailable, match="shutting down"):
            await serving.predict(PHOTO)

    asyncio.run(run())
    wait_until(lambda: not any(t.name.startswith("mlserve-run") for t in threading.enumerate()))


def test_it_can_be_started_again_on_another_loop_but_not_twice(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> str:
        with pytest.raises(UsageError, match="already started"):
            async with serving:
                pass
        return (await serving.predict(PHOTO)).label

    assert [_during(serving, ask) for _ in range(3)] == ["sorrel"] * 3


def test_a_call_from_another_loop_is_answered_by_the_loop_of_the_server(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> Any:
        return await asyncio.to_thread(asyncio.run, serving.predict(PHOTO))

    assert _during(serving, ask).label == "sorrel"

    with pytest.raises(Unavailable, match="another event loop"):
        asyncio.run(serving.predict(PHOTO))


def test_a_blocking_view_of_django_asks_through_asgiref(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    def view() -> str:
        return async_to_sync(serving.predict)(PHOTO, timeout=5).label

    assert _during(serving, sync_to_async(view)) == "sorrel"


def test_several_models_share_one_engine_and_are_asked_by_name(export: Export) -> None:
    export("one", label="ox")
    export("two")
    serving = mlserve.server.mount("one", "two")

    async def ask() -> None:
        assert (await serving.predict(PHOTO, model="one")).label == "ox"
        assert (await serving.predict(PHOTO, model="two")).label == "sorrel"
        with pytest.raises(UsageError, match="2 models are mounted: one, two"):
            await serving.predict(PHOTO)

    _during(serving, ask)


def test_a_model_that_cannot_be_loaded_ends_the_start_with_its_error(export: Export) -> None:
    export(fail_load="the file is torn")
    serving = mlserve.server.mount()

    async def start() -> None:
        async with serving:
            raise AssertionError

    with pytest.raises(ModelLoadFailed, match="the file is torn"):
        asyncio.run(start())


def test_without_a_lifespan_the_first_call_loads_and_a_failure_is_tried_again(
    export: Export, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = export(fail_load="the file is torn")
    serving = mlserve.server.mount()

    async def ask() -> str:
        with pytest.raises(Unavailable):
            await serving.predict(PHOTO)
        await _until(lambda: "the models are not served: the file is torn" in caplog.text)
        assert not serving.is_ready
        with pytest.raises(NotFound, match="the file is torn"):
            await serving.predict(PHOTO)
        shutil.rmtree(path / "1")
        export()
        monkeypatch.setattr(mounted, "_PAUSE", 0.0)
        with pytest.raises(Unavailable, match="loading"):
            await serving.predict(PHOTO)
        await _until(lambda: serving.is_ready)
        return (await serving.predict(PHOTO)).label

    assert asyncio.run(ask()) == "sorrel"


def test_a_new_version_is_taken_while_it_serves(export: Export) -> None:
    export()
    serving = mlserve.server.mount(poll_seconds=0.02)

    async def ask() -> None:
        assert (await serving.predict(PHOTO)).version == 1
        export(version=2, label="ox")
        while (answer := await serving.predict(PHOTO)).version == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (answer.label, answer.version) == ("ox", 2)
        assert (await serving.predict(PHOTO, version=2)).label == "ox"

    _during(serving, ask)


def test_two_servers_run_side_by_side(export: Export) -> None:
    export("one", label="ox")
    export("two")
    one, two = mlserve.server.mount("one"), mlserve.server.mount("two")

    async def ask() -> None:
        async with one, two:
            answers = await asyncio.gather(one.predict(PHOTO), two.predict(PHOTO))
        assert [answer.label for answer in answers] == ["ox", "sorrel"]

    asyncio.run(ask())


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
def test_the_test_client_of_a_framework_runs_the_lifespan_each_time(export: Export) -> None:
    from starlette.testclient import TestClient

    export()
    serving = mlserve.server.mount()
    app = FastAPI(lifespan=serving.lifespan)
    app.mount("/ml", serving)

    for _ in range(2):
        with TestClient(app) as client:
            answer = client.post("/ml/v1/models/m:predict", content=PHOTO)
            assert answer.json() == {"predictions": ["sorrel"]}
        assert not serving.is_ready


def test_the_log_names_what_failed_in_a_format_of_mlserve(
    export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    export()
    serving = mlserve.server.mount()
    caplog.set_level("INFO")

    async def ask() -> None:
        with pytest.raises(NotAnImage):
            await serving.predict(b"bad")

    _during(serving, ask)
    (record,) = (found for found in caplog.records if found.name == "mlserve.request")
    line = TextFormatter().format(record)
    assert " INFO predict failed code=not_an_image error=" in line
    assert " transport=direct path=predict model=m version=1 " in line


def _two_versions(export: Export) -> None:
    export("m", 1, label="one")
    export("m", 2, label="two")


class Keeping:
    """Keeps every question and its answer, as what asks a second version does."""

    def __init__(self) -> None:
        self.kept = list[Any]()

    def choose(self, *_: Any) -> None:
        pass

    def entered(self, job: Job[Any]) -> None:
        job.work.keeps = True

    def finished(self, job: Job[Any], _: Any) -> None:
        self.kept.append(job.work.kept)


def test_an_answer_that_its_caller_changes_is_not_what_a_second_version_is_compared_with(
    export: Export,
) -> None:
    export()
    serving = mlserve.server.mount()
    keeping = Keeping()

    async def ask() -> None:
        _engine(serving).companion = keeping
        numbers = np.ones(2, np.float32)
        answer = await serving.infer({"a": numbers, "b": numbers}, signature="two")
        answer["sum"][:] = numbers[:] = -1

    _during(serving, ask)
    (kept,) = keeping.kept
    assert {name: array.tolist() for name, array in kept.inputs.items()} == {
        "a": [1.0, 1.0],
        "b": [1.0, 1.0],
    }
    assert kept.outputs["sum"].tolist() == [2.0, 2.0]


def test_a_split_gives_calls_to_both_versions(export: Export) -> None:
    _two_versions(export)
    serving = mlserve.server.mount("m", split="v2=50%,differ=100%")

    async def ask() -> None:
        seen: set[int | None] = set()
        async with asyncio.timeout(20):
            while seen != {1, 2}:
                seen.add((await serving.infer({"image": [PHOTO]})).version)
        assert {(await serving.infer({"image": [PHOTO]}, version=2)).version} == {2}

    _during(serving, ask)


@pytest.mark.alone  # the shadow gets no CPU that anything else wants
@pytest.mark.server
def test_a_shadow_has_a_process_of_its_own_and_ends_with_the_server(export: Export) -> None:
    _two_versions(export)
    serving = mlserve.server.mount("m", shadow="2")

    async def ask() -> None:
        rollouts = _parts(serving).rollouts

        def compared() -> int:
            return rollouts.report().shadows[0].mirrored.counts.compared

        async with asyncio.timeout(40):
            while not compared():
                assert (await serving.infer({"image": [PHOTO]})).version == 1

    _during(serving, ask)
