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
        async with models.ready(two, one) as catalog:
            await models.until(lambda: catalog.is_available("a", 3))
            assert catalog.models == ("a", "b")
            assert models.answer(catalog, "a") == "a/3"
            assert models.answer(catalog, "a", 2) == models.answer(catalog, "a", "old") == "a/2"
            assert models.answer(catalog, "b") == "b/1"
            with pytest.raises(NotFound, match="version 1 of a"):
                catalog.lease("a", "gone")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: new"):
                catalog.lease("a", "new")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: old"):
                catalog.statuses("b", "old")
            with pytest.raises(NotFound, match="model c; this server has 'a', 'b'"):
                catalog.lease("c", None)
            models.put("a/4")
            await models.until(lambda: models.answer(catalog, "a") == "a/4")
            await models.until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_it_is_ready_when_every_first_model_is(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.serving(models.source("a"), models.source("b")) as catalog:
            await models.until(lambda: catalog.is_available("a", 1))
            assert not catalog.is_ready
            with pytest.raises(Unavailable, match="b has no version yet"):
                catalog.lease("b", None)
            models.put("b/1")
            await models.until(lambda: catalog.is_ready)

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
        async with models.ready(models.source("a"), models.source("b")) as catalog:
            before = catalog.lease("a", None)
            both = models.source("a", policy=VersionPolicy(serves_all=True), labels={"x": 1})
            await catalog.serve([both, models.source("c")])
            assert catalog.lease("a", 2) is before
            assert [models.answer(catalog, "a", "x"), models.answer(catalog, "c")] == ["a/1", "c/1"]
            assert catalog.models == catalog.awaited == ("a", "c")
            await models.until(lambda: models.is_closed("b/1"))
            await catalog.serve([models.source("a", policy=VersionPolicy(versions=(1,)))])
            assert models.answer(catalog, "a") == "a/1"
            assert not models.is_closed("a/2"), "it is leased"
            before.release()
            before.release()
            await models.until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_another_folder_takes_over_once_it_is_loaded(models: Any) -> None:
    models.put("old/1")
    models.put("new/1", load_delay=0.1)

    async def check() -> None:
        async with models.ready(models.source("a", "old")) as catalog:
            change = asyncio.create_task(catalog.serve([models.source("a", "new")]))
            answers = []
            while not change.done():
                answers.append(models.answer(catalog, "a"))
                assert catalog.is_ready
                await asyncio.sleep(0.005)
            await change
            assert set(answers) >= {"old/1"}
            assert models.answer(catalog, "a") == "new/1"
            await models.until(lambda: models.is_closed("old/1"))

    asyncio.run(check())


def test_another_folder_takes_over_with_all_its_versions(models: Any) -> None:
    for path in ("old/1", "old/2", "new/1", "new/2"):
        models.put(path, load_delay=0.02)

    async def check() -> None:
        every = VersionPolicy(serves_all=True)
        old, new = (models.source("a", f, policy=every, labels={"x": 2}) for f in ("old", "new"))
        async with models.ready(old) as catalog:
            await models.until(lambda: catalog.is_available("a", 2))
            change = asyncio.create_task(catalog.serve([new]))
            while not change.done():
                assert models.answer(catalog, "a", "x") in ("old/2", "new/2")
                await asyncio.sleep(0.001)
            assert models.answer(catalog, "a", "x") == "new/2"

    asyncio.run(check())


def test_what_cannot_be_loaded_is_named_and_the_rest_is_served(models: Any) -> None:
    models.put("a/1")
    models.put("b/1")
    models.put("bad/1", fail_load="damaged")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("c", "a")) as catalog:
            new = [models.source("a", "bad"), models.source("b"), models.source("n")]
            with pytest.raises(ModelLoadFailed) as refused:
                await catalog.serve(new)
            assert "2 model(s) did not become available: a: damaged; n: the base" in str(refused)
            assert [models.answer(catalog, "a"), models.answer(catalog, "b")] == ["a/1", "b/1"]
            assert (catalog.models, catalog.awaited) == (("a", "b", "n"), ("a", "b"))
            assert catalog.is_ready
            with suppress(MlserveError):
                await catalog.serve(new)  # again: nothing is loaded twice
            models.put("bad/2")
            models.put("n/1")
            await models.until(lambda: models.answer(catalog, "a") == "bad/2")
            await models.until(lambda: catalog.awaited == ("a", "b", "n"))
            await catalog.serve([])
            assert catalog.models == ()

    asyncio.run(check())


def test_a_change_that_is_taken_back(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as catalog:
            with pytest.raises(ModelLoadFailed):
                await catalog.serve([models.source("a", "missing")])
            await catalog.serve([models.source("a")])
            models.put("missing/1")
            models.put("a/2")
            await models.until(lambda: models.answer(catalog, "a") == "a/2")

    asyncio.run(check())


def test_without_polling_a_model_must_be_there(models: Any) -> None:
    async def check() -> None:
        catalog = Models(lambda: None)
        await catalog.begin([models.source("a", poll_seconds=0.0)])
        with pytest.raises(NotFound, match="cannot be read"):
            await catalog.run()

    asyncio.run(check())


def test_a_removed_model_ends_with_its_load(models: Any) -> None:
    models.put("a/1")
    models.put("b/1", load_delay=0.3)

    async def check(sources: Sequence[ModelSpec]) -> None:
        async with models.serving(*sources) as catalog:
            await models.until(lambda: catalog.is_available("a", 1))
            await models.until(lambda: catalog.statuses("b")[0].state is State.LOADING)
            await catalog.serve(sources[:1])
            assert (catalog.models, catalog.is_ready) == (("a",), True)
            await models.until(lambda: models.is_closed("b/1"))
            assert not catalog.is_loading

    asyncio.run(check([models.source("a"), models.source("b")]))
