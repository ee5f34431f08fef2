"""Models that are unloaded and loaded by request, beside others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlserve.errors import ModelLoadFailed, NotFound, Unavailable
from mlserve.server.models.versions import State
from mlserve.store import VersionPolicy


def states(catalog: Any, model: str) -> dict[int, State]:
    return {status.version: status.state for status in catalog.statuses(model)}


def test_one_of_two_models_is_unloaded_and_the_server_stays_ready(models: Any) -> None:
    models.put("a/1")
    models.put("b/1")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("b")) as catalog:
            await catalog.unload("a")
            assert models.is_closed("a/1")
            assert (catalog.awaited, catalog.is_ready) == (("b",), True)
            with pytest.raises(Unavailable, match="a is unloaded, as it was asked for"):
                catalog.lease("a", None)
            assert models.answer(catalog, "b") == "b/1"
            await catalog.unload("b")
            assert (catalog.awaited, catalog.is_ready) == (("a", "b"), False)
            await catalog.load("b")
            assert (catalog.awaited, catalog.is_ready) == (("b",), True)
            await catalog.load("a")
            assert (catalog.awaited, catalog.is_ready) == (("a", "b"), True)
            assert models.answer(catalog, "a") == "a/1"

    asyncio.run(check())


def test_every_version_and_every_label_of_an_unloaded_model_is_gone(models: Any) -> None:
    for path in ("a/1", "a/2"):
        models.put(path)

    async def check() -> None:
        source = models.source("a", policy=VersionPolicy(serves_all=True), labels={"old": 1})
        async with models.ready(source) as catalog:
            await models.until(lambda: catalog.is_available("a", 2))
            await catalog.unload("a")
            assert states(catalog, "a") == {1: State.END, 2: State.END}
            for choice in (None, 1, 2, "old"):
                with pytest.raises(Unavailable, match="a is unloaded"):
                    catalog.lease("a", choice)
            await catalog.load("a")
            assert models.answer(catalog, "a", "old") == "a/1"
            assert states(catalog, "a") == {1: State.AVAILABLE, 2: State.AVAILABLE}

    asyncio.run(check())


def test_a_new_configuration_does_not_load_an_unloaded_model(models: Any) -> None:
    models.put("a/1")
    models.put("a/2")
    models.put("b/1")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("b")) as catalog:
            await catalog.unload("a")
            both = models.source("a", policy=VersionPolicy(serves_all=True))
            await catalog.serve([both, models.source("b")])
            assert catalog.is_unloaded("a")
            await catalog.load("a")
            assert states(catalog, "a") == {1: State.AVAILABLE, 2: State.AVAILABLE}
            await catalog.unload("a")
            await catalog.serve([models.source("b")])
            assert catalog.models == ("b",)
            await catalog.serve([models.source("a"), models.source("b")])
            assert models.answer(catalog, "a") == "a/2"

    asyncio.run(check())


def test_a_model_can_be_unloaded_while_it_is_loading(models: Any) -> None:
    models.put("a/1", load_delay=0.3)

    async def check() -> None:
        async with models.serving(models.source("a", poll_seconds=0.0)) as catalog:
            await models.until(lambda: catalog.is_loading)
            await catalog.unload("a")
            assert models.is_closed("a/1")
            assert states(catalog, "a") == {1: State.END}
            await catalog.load("a")
            assert models.answer(catalog, "a") == "a/1"

    asyncio.run(check())


def test_loading_tells_what_fails(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as catalog:
            models.put("a/2", fail_load="no weights")
            with pytest.raises(ModelLoadFailed, match="no weights"):
                await catalog.load("a")
            assert models.answer(catalog, "a") == "a/1"
            (models.folder / "a").rename(models.folder / "away")
            await catalog.unload("a")
            with pytest.raises(Unavailable, match="a has no version in"):
                await catalog.load("a")
            for change in (catalog.load, catalog.unload):
                with pytest.raises(NotFound, match="this server has 'a'"):
                    await change("c")

    asyncio.run(check())


def test_unloading_twice_and_loading_twice_change_nothing(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as catalog:
            await asyncio.gather(catalog.unload("a"), catalog.unload("a"))
            assert states(catalog, "a") == {1: State.END}
            await asyncio.gather(catalog.load("a"), catalog.load("a"))
            assert models.answer(catalog, "a") == "a/1"

    asyncio.run(check())
