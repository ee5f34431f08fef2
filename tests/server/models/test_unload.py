"""Models that are unloaded and loaded by request, beside others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlserve.errors import ModelLoadFailed, NotFound, Unavailable
from mlserve.server.models.versions import State
from mlserve.store import VersionPolicy


def states(served: Any, model: str) -> dict[int, State]:
    return {status.version: status.state for status in served.statuses(model)}


def test_one_of_two_models_is_unloaded_and_the_server_stays_ready(models: Any) -> None:
    models.put("a/1")
    models.put("b/1")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("b")) as served:
            await served.unload("a")
            assert models.is_closed("a/1")
            assert (served.awaited, served.is_ready) == (("b",), True)
            with pytest.raises(Unavailable, match="a was unloaded by request"):
                served.lease("a", None)
            assert models.answer(served, "b") == "b/1"
            await served.unload("b")
            assert (served.awaited, served.is_ready) == (("a", "b"), False)
            await served.load("b")
            assert (served.awaited, served.is_ready) == (("b",), True)
            await served.load("a")
            assert (served.awaited, served.is_ready) == (("a", "b"), True)
            assert models.answer(served, "a") == "a/1"

    asyncio.run(check())


def test_every_version_and_every_label_of_an_unloaded_model_is_gone(models: Any) -> None:
    for path in ("a/1", "a/2"):
        models.put(path)

    async def check() -> None:
        source = models.source("a", policy=VersionPolicy(serves_all=True), labels={"old": 1})
        async with models.ready(source) as served:
            await models.until(lambda: served.is_available("a", 2))
            await served.unload("a")
            assert states(served, "a") == {1: State.END, 2: State.END}
            for choice in (None, 1, 2, "old"):
                with pytest.raises(Unavailable, match="a was unloaded"):
                    served.lease("a", choice)
            await served.load("a")
            assert models.answer(served, "a", "old") == "a/1"
            assert states(served, "a") == {1: State.AVAILABLE, 2: State.AVAILABLE}

    asyncio.run(check())


def test_a_new_configuration_does_not_load_an_unloaded_model(models: Any) -> None:
    models.put("a/1")
    models.put("a/2")
    models.put("b/1")

    async def check() -> None:
        async with models.ready(models.source("a"), models.source("b")) as served:
            await served.unload("a")
            both = models.source("a", policy=VersionPolicy(serves_all=True))
            await served.serve([both, models.source("b")])
            assert served.is_unloaded("a")
            await served.load("a")
            assert states(served, "a") == {1: State.AVAILABLE, 2: State.AVAILABLE}
            await served.unload("a")
            await served.serve([models.source("b")])
            assert served.names == ("b",)
            await served.serve([models.source("a"), models.source("b")])
            assert models.answer(served, "a") == "a/2"

    asyncio.run(check())


def test_a_model_can_be_unloaded_while_it_is_loading(models: Any) -> None:
    models.put("a/1", load_delay=0.3)

    async def check() -> None:
        async with models.serving(models.source("a", poll_seconds=0.0)) as served:
            await models.until(lambda: served.is_loading)
            await served.unload("a")
            assert models.is_closed("a/1")
            assert states(served, "a") == {1: State.END}
            await served.load("a")
            assert models.answer(served, "a") == "a/1"

    asyncio.run(check())


def test_loading_tells_what_fails(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as served:
            models.put("a/2", fail_load="no weights")
            with pytest.raises(ModelLoadFailed, match="no weights"):
                await served.load("a")
            assert models.answer(served, "a") == "a/1"
            (models.folder / "a").rename(models.folder / "away")
            await served.unload("a")
            with pytest.raises(Unavailable, match="a has no version in"):
                await served.load("a")
            for change in (served.load, served.unload):
                with pytest.raises(NotFound, match="this server has 'a'"):
                    await change("c")

    asyncio.run(check())


def test_unloading_twice_and_loading_twice_change_nothing(models: Any) -> None:
    models.put("a/1")

    async def check() -> None:
        async with models.ready(models.source("a")) as served:
            await asyncio.gather(served.unload("a"), served.unload("a"))
            assert states(served, "a") == {1: State.END}
            await asyncio.gather(served.load("a"), served.load("a"))
            assert models.answer(served, "a") == "a/1"

    asyncio.run(check())
