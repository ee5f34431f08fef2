"""Several models in one server: what is loaded, kept and given up when they are changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from mlserve.errors import (
    InvalidInput,
    MlserveError,
    ModelLoadFailed,
    NotFound,
    Unavailable,
)
from mlserve.server.models import model
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec, State
from mlserve.store import VersionPolicy


def test_each_model_has_its_folder_its_policy_and_its_labels(models: Any) -> None:
    for path in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        models.put(path)

    async def check() -> None:
        two = models.source("a", policy=VersionPolicy(latest=2), labels={"old": 2, "gone": 1})
        one = models.source("b", policy=VersionPolicy(versions=(1,)))
        async with models.ready(two, one) as served:
            await models.until(lambda: served.is_available("a", 3))
            assert served.names == ("a", "b")
            assert models.answer(served, "a") == "a/3"
            assert models.answer(served, "a", 2) == models.answer(served, "a", "old") == "a/2"
            assert models.answer(served, "b") == "b/1"
            with pytest.raises(NotFound, match="version 1 of a"):
                served.lease("a", "gone")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: new"):
                served.lease("a", "new")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: old"):
                served.statuses("b", "old")
            with pytest.raises(NotFound, match="model c; this server has 'a', 'b'"):
                served.lease("c", None)
            models.put("a/4")
            await models.until(lambda: models.answer(served, "a") == "a/4")
            await models.until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_it_is_ready_when_every_first_model_is(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.serving(models.source("a"), models.source("b")) as served:
            await models.until(lambda: served.is_available("a", 1))
            assert not served.is_ready
            with pytest.raises(Unavailable, match="b has no version yet"):
                served.lease("b", None)
            models.put("b/1")
            await models.until(lambda: served.is_ready)

    asyncio.run(check())


def test_what_is_missing_is_said_again_and_again(
    models: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model, "REMIND_SECONDS", 0.0)

    async def check() -> None:
        async with models.serving(models.source("a")):
            await models.until(
                lambda: caplog.text.count("waiting for a version of a: the base path") > 1
            )

    asyncio.run(check())


def test_a_change_keeps_what_is_the_same(models: Any) -> None:
    for path in ("a/1", "a/2", "b/1", "c/1"):
        models.put(path)

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("b")) as served:
            before = served.lease("a", None)
            both = models.source("a", policy=VersionPolicy(serves_all=True), labels={"x": 1})
            await served.serve([both, models.source("c")])
            assert served.lease("a", 2) is before
            assert [models.answer(served, "a", "x"), models.answer(served, "c")] == ["a/1", "c/1"]
            assert served.names == served.awaited == ("a", "c")
            await models.until(lambda: models.is_closed("b/1"))
            await served.serve([models.source("a", policy=VersionPolicy(versions=(1,)))])
            assert models.answer(served, "a") == "a/1"
            assert not models.is_closed("a/2"), "it is leased"
            before.release()
            before.release()
            await models.until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_another_folder_takes_over_once_it_is_loaded(models: Any) -> None:
    models.put("old/1")
    models.put("new/1", load_delay=0.1)

    async def check() -> None:
        async with models.ready(models.source("a", "old")) as served:
            change = asyncio.create_task(served.serve([models.source("a", "new")]))
            answers = []
            while not change.done():
                answers.append(models.answer(served, "a"))
                assert served.is_ready
                await asyncio.sleep(0.005)
            await change
            assert set(answers) >= {"old/1"}
            assert models.answer(served, "a") == "new/1"
            await models.until(lambda: models.is_closed("old/1"))

    asyncio.run(check())


def test_another_folder_takes_over_with_all_its_versions(models: Any) -> None:
    for path in ("old/1", "old/2", "new/1", "new/2"):
        models.put(path, load_delay=0.02)

    async def check() -> None:
        every = VersionPolicy(serves_all=True)
        old, new = (models.source("a", f, policy=every, labels={"x": 2}) for f in ("old", "new"))
        async with models.ready(old) as served:
            await models.until(lambda: served.is_available("a", 2))
            change = asyncio.create_task(served.serve([new]))
            while not change.done():
                assert models.answer(served, "a", "x") in ("old/2", "new/2")
                await asyncio.sleep(0.001)
            assert models.answer(served, "a", "x") == "new/2"

    asyncio.run(check())


def test_what_cannot_be_loaded_is_named_and_the_rest_is_served(models: Any) -> None:
    models.put("a/1")
    models.put("b/1")
    models.put("bad/1", fail_load="damaged")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("c", "a")) as served:
            new = [models.source("a", "bad"), models.source("b"), models.source("n")]
            with pytest.raises(ModelLoadFailed) as refused:
                await served.serve(new)
            assert "2 model(s) did not become available: a: damaged; n: the base" in str(refused)
            assert [models.answer(served, "a"), models.answer(served, "b")] == ["a/1", "b/1"]
            assert (served.names, served.awaited) == (("a", "b", "n"), ("a", "b"))
            assert served.is_ready
            with suppress(MlserveError):
                await served.serve(new)  # again: nothing is loaded twice
            models.put("bad/2")
            models.put("n/1")
            await models.until(lambda: models.answer(served, "a") == "bad/2")
            await models.until(lambda: served.awaited == ("a", "b", "n"))
            await served.serve([])
            assert served.names == ()

    asyncio.run(check())


def test_a_change_that_is_taken_back(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as served:
            with pytest.raises(ModelLoadFailed):
                await served.serve([models.source("a", "missing")])
            await served.serve([models.source("a")])
            models.put("missing/1")
            models.put("a/2")
            await models.until(lambda: models.answer(served, "a") == "a/2")

    asyncio.run(check())


def test_without_polling_a_model_must_be_there(models: Any) -> None:
    async def check() -> None:
        served = Models(lambda: None)
        await served.begin([models.source("a", poll_seconds=0.0)])
        with pytest.raises(NotFound, match="cannot be read"):
            await served.run()

    asyncio.run(check())


def test_a_removed_model_ends_with_its_load(models: Any) -> None:
    models.put("a/1")
    models.put("b/1", load_delay=0.3)

    async def check(sources: Sequence[ModelSpec]) -> None:
        async with models.serving(*sources) as served:
            await models.until(lambda: served.is_available("a", 1))
            await models.until(lambda: served.statuses("b")[0].state is State.LOADING)
            await served.serve(sources[:1])
            assert (served.names, served.is_ready) == (("a",), True)
            await models.until(lambda: models.is_closed("b/1"))
            assert not served.is_loading

    asyncio.run(check([models.source("a"), models.source("b")]))
