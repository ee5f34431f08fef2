"""A mounted server that is asked without HTTP: how it starts, ends, and changes its versions."""

from __future__ import annotations

import asyncio
import shutil
import threading
from typing import Any

import numpy as np
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from fastapi import FastAPI

import mlserve.server
from mlserve import (
    ModelLoadFailed,
    NotFound,
    Unavailable,
    UsageError,
)
from mlserve.asgi import mounted
from mlserve.server.engine.job import Job
from mlserve.testing.processes import wait_until
from tests.conftest import Export
from tests.harness.echo import PHOTO
from tests.harness.mounted import during, engine, parts, running, until


def test_the_end_of_the_block_waits_for_calls_and_then_refuses_them(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def run() -> None:
        async with serving:
            assert serving.is_ready
            slow = asyncio.create_task(serving.infer({"seconds": [0.3]}, signature="slow"))
            await running(serving, 1)
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

    assert [during(serving, ask) for _ in range(3)] == ["sorrel"] * 3


def test_a_call_from_another_loop_is_answered_by_the_loop_of_the_server(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    async def ask() -> Any:
        return await asyncio.to_thread(asyncio.run, serving.predict(PHOTO))

    assert during(serving, ask).label == "sorrel"

    with pytest.raises(Unavailable, match="another event loop"):
        asyncio.run(serving.predict(PHOTO))


def test_a_blocking_view_of_django_asks_through_asgiref(export: Export) -> None:
    export()
    serving = mlserve.server.mount()

    def view() -> str:
        return async_to_sync(serving.predict)(PHOTO, timeout=5).label

    assert during(serving, sync_to_async(view)) == "sorrel"


def test_several_models_share_one_engine_and_are_asked_by_name(export: Export) -> None:
    export("one", label="ox")
    export("two")
    serving = mlserve.server.mount("one", "two")

    async def ask() -> None:
        assert (await serving.predict(PHOTO, model="one")).label == "ox"
        assert (await serving.predict(PHOTO, model="two")).label == "sorrel"
        with pytest.raises(UsageError, match="2 models are mounted: one, two"):
            await serving.predict(PHOTO)

    during(serving, ask)


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
        await until(lambda: "the models are not served: the file is torn" in caplog.text)
        assert not serving.is_ready
        with pytest.raises(NotFound, match="the file is torn"):
            await serving.predict(PHOTO)
        shutil.rmtree(path / "1")
        export()
        monkeypatch.setattr(mounted, "_PAUSE", 0.0)
        with pytest.raises(Unavailable, match="loading"):
            await serving.predict(PHOTO)
        await until(lambda: serving.is_ready)
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

    during(serving, ask)


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
        engine(serving).companion = keeping
        numbers = np.ones(2, np.float32)
        answer = await serving.infer({"a": numbers, "b": numbers}, signature="two")
        answer["sum"][:] = numbers[:] = -1

    during(serving, ask)
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

    during(serving, ask)


@pytest.mark.alone  # the shadow gets no CPU that anything else wants
@pytest.mark.server
def test_a_shadow_has_a_process_of_its_own_and_ends_with_the_server(export: Export) -> None:
    _two_versions(export)
    serving = mlserve.server.mount("m", shadow="2")

    async def ask() -> None:
        rollouts = parts(serving).rollouts

        def compared() -> int:
            return rollouts.report().shadows[0].mirrored.counts.compared

        async with asyncio.timeout(40):
            while not compared():
                assert (await serving.infer({"image": [PHOTO]})).version == 1

    during(serving, ask)
