"""Calls to a mounted server from its own process: the answers and the errors of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlserve.server
from mlserve import (
    AsyncClient,
    Deadline,
    DeadlineExceeded,
    InputTooLarge,
    MlserveError,
    NotAnImage,
    NotFound,
    Overloaded,
    UsageError,
)
from mlserve.artifact import Artifact
from mlserve.server.telemetry.log import TextFormatter
from mlserve.testing.processes import launched
from tests.conftest import Export
from tests.harness.echo import PHOTO
from tests.harness.mounted import during, engine, running, until


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """What a version that is exported with this path holds, as `slow`, ends once it is a file."""
    return tmp_path / "released"


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

    during(serving, ask)


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
        during(serving, ask)


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

    during(serving, ask)


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

    during(serving, ask)


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

    during(serving, ask)


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

    during(serving, ask)


def test_a_late_call_ends_in_time_and_one_too_many_is_refused(
    export: Export, released: Path
) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1, max_queue=0)

    async def ask() -> None:
        slow = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow", timeout=3))
        await running(serving, 1)
        with pytest.raises(Overloaded, match="the queue is full") as refused:
            await serving.predict(PHOTO, timeout=Deadline.after(5))
        assert refused.value.retry_after is not None
        with pytest.raises(DeadlineExceeded, match=r"within 3 s"):
            await slow
        let_go()
        await running(serving, 0)
        assert (await serving.predict(PHOTO)).label == "sorrel"

    during(serving, ask)


def test_a_critical_call_displaces_one_that_waits(export: Export, released: Path) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1, max_queue=1)

    async def ask() -> None:
        slow = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow"))
        await running(serving, 1)
        waiting = asyncio.create_task(serving.predict(PHOTO, priority="sheddable"))
        await until(lambda: engine(serving).waiting == 1)
        critical = asyncio.create_task(serving.predict(PHOTO, priority="critical"))
        with pytest.raises(Overloaded):
            await waiting
        let_go()
        assert (await critical).label == "sorrel"
        await slow
        with pytest.raises(UsageError, match="x-request-priority must be sheddable"):
            await serving.predict(PHOTO, priority="high")  # type: ignore[arg-type]

    during(serving, ask)


def test_a_cancelled_call_leaves_the_queue(export: Export, released: Path) -> None:
    export(released=str(released))
    let_go = released.touch
    serving = mlserve.server.mount(threads=1)

    async def ask() -> None:
        first = asyncio.create_task(serving.infer({"seconds": [60]}, signature="slow"))
        await running(serving, 1)
        second = asyncio.create_task(serving.predict(PHOTO))
        await until(lambda: engine(serving).waiting == 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert engine(serving).unfinished == 1
        let_go()
        await first

    during(serving, ask)


def test_the_log_names_what_failed_in_a_format_of_mlserve(
    export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    export()
    serving = mlserve.server.mount()
    caplog.set_level("INFO")

    async def ask() -> None:
        with pytest.raises(NotAnImage):
            await serving.predict(b"bad")

    during(serving, ask)
    (record,) = (found for found in caplog.records if found.name == "mlserve.request")
    line = TextFormatter().format(record)
    assert " INFO predict failed code=not_an_image error=" in line
    assert " transport=direct path=predict model=m version=1 " in line
