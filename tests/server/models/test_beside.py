"""A version beside the others: loaded and answered by its number, and never the latest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlserve.errors import ModelLoadFailed
from mlserve.pin import write_pin
from mlserve.rollout import RolloutOptions
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec, State
from mlserve.store import VersionPolicy


def split(models: Any, version: int = 2) -> ModelSpec:
    rollout = RolloutOptions(split=f"v{version}=5%")
    source: ModelSpec = models.source("m", policy=VersionPolicy(aside=version), rollout=rollout)
    return source


def available(served: Models) -> list[int]:
    return sorted(s.version for s in served.statuses("m") if s.state is State.AVAILABLE)


def numbers(served: Models) -> tuple[int | None, int | None]:
    """Return the version in use, and the one beside it."""
    base, beside = served.base_of("m"), served.beside_of("m")
    return base and base.version, beside and beside.version


def test_it_is_served_but_is_not_the_latest(models: Any) -> None:
    models.put("m/1")
    models.put("m/2")

    async def check() -> None:
        async with models.ready(split(models)) as served:
            await models.until(lambda: available(served) == [1, 2])
            assert models.answer(served, "m") == "m/1"
            assert models.answer(served, "m", 2) == "m/2"
            assert numbers(served) == (1, 2)
            models.put("m/3")
            await models.until(lambda: available(served) == [2, 3])
            assert models.answer(served, "m") == "m/3"
            assert numbers(served) == (3, 2)

    asyncio.run(check())


def test_a_pin_makes_it_the_one_in_use_and_back(models: Any) -> None:
    base = models.put("m/1").parent
    models.put("m/2")

    async def check() -> None:
        async with models.ready(split(models)) as served:
            await models.until(lambda: available(served) == [1, 2])
            write_pin(base, 2)
            await models.until(lambda: available(served) == [2])
            assert numbers(served) == (2, None)
            assert models.answer(served, "m") == "m/2"
            write_pin(base, 1)
            await models.until(lambda: available(served) == [1, 2])
            await models.until(lambda: numbers(served) == (1, 2))
            assert models.answer(served, "m") == "m/1"

    asyncio.run(check())


def test_it_does_not_answer_for_one_that_cannot_be_loaded(models: Any) -> None:
    base = models.put("m/1").parent
    models.put("m/2")
    models.put("m/3", fail_load="the disk is lost")

    async def check() -> None:
        write_pin(base, 1)
        async with models.ready(split(models)) as served:
            await models.until(lambda: available(served) == [1, 2])
            write_pin(base, 3)
            await models.until(
                lambda: any(s.version == 3 and s.error for s in served.statuses("m"))
            )
            assert numbers(served) == (1, 2)
            with pytest.raises(ModelLoadFailed, match="the disk is lost"):
                await served.load("m")
            assert models.answer(served, "m") == "m/1"

    asyncio.run(check())


def test_alone_it_does_not_make_a_server_ready(models: Any) -> None:
    models.put("m/1", fail_load="the disk is lost")
    models.put("m/2")

    async def check() -> None:
        served = Models(lambda: None)
        await served.begin([split(models)])
        with pytest.raises(ModelLoadFailed, match="the disk is lost"):
            await served.run()
        assert not served.is_ready
        assert numbers(served) == (None, 2)
        await served.close()

    asyncio.run(check())


def test_one_that_fails_to_load_changes_nothing(models: Any) -> None:
    models.put("m/1")
    models.put("m/2", fail_load="half a file")

    async def check() -> None:
        async with models.ready(split(models)) as served:
            await models.until(lambda: served.statuses("m", 2)[0].error)
            assert served.is_ready
            await served.load("m")
            assert numbers(served) == (1, None)

    asyncio.run(check())


def test_it_comes_and_goes_without_a_reload_of_the_others(models: Any) -> None:
    models.put("m/1")
    models.put("m/2")

    async def check() -> None:
        plain = models.source("m", policy=VersionPolicy((1,)))
        rollout = RolloutOptions(split="v2=5%")
        both = models.source("m", policy=VersionPolicy((1,), aside=2), rollout=rollout)
        async with models.ready(plain) as served:
            await served.serve([both])
            assert available(served) == [1, 2]
            assert numbers(served) == (1, 2)
            await served.serve([plain])
            await models.until(lambda: available(served) == [1])
            assert numbers(served) == (1, None)
            assert not models.is_closed("m/1")

    asyncio.run(check())
