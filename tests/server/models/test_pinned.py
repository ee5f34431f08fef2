"""A pin in the model's folder is followed, and one that cannot be followed ends nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlserve.errors import NotFound
from mlserve.pin import PIN_NAME, write_pin
from mlserve.server.models.models import Models
from mlserve.server.models.versions import State
from mlserve.store import VersionPolicy


def available(served: Models) -> list[int]:
    return [s.version for s in served.statuses("m") if s.state is State.AVAILABLE]


def test_the_pinned_version_takes_over_and_the_latest_when_the_pin_goes(models: Any) -> None:
    base = models.put("m/1").parent
    models.put("m/2")

    async def check() -> None:
        async with models.ready(models.source("m")) as served:
            assert models.answer(served, "m") == "m/2"
            write_pin(base, 1)
            await models.until(lambda: available(served) == [1])
            assert models.answer(served, "m") == "m/1"
            models.put("m/3")
            write_pin(base, 2)
            await models.until(lambda: available(served) == [2])
            write_pin(base, None)
            await models.until(lambda: available(served) == [3])
            assert models.answer(served, "m") == "m/3"

    asyncio.run(check())


def test_a_pin_is_there_after_a_restart(models: Any) -> None:
    base = models.put("m/1").parent
    models.put("m/2")
    write_pin(base, 1)

    async def check() -> None:
        async with models.ready(models.source("m")) as served:
            assert available(served) == [1]

    asyncio.run(check())


def test_a_named_version_wins_over_the_pin(models: Any) -> None:
    base = models.put("m/1").parent
    models.put("m/2")
    write_pin(base, 1)

    async def check() -> None:
        source = models.source("m", policy=VersionPolicy((2,)))
        async with models.ready(source) as served:
            assert available(served) == [2]

    asyncio.run(check())


@pytest.mark.parametrize("pin", ['{"format": 1, "version": 9}', "half a pi", ""])
def test_what_is_served_stays_under_a_pin_that_cannot_be_followed(
    models: Any, pin: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = models.put("m/1").parent

    async def check() -> None:
        async with models.ready(models.source("m")) as served:
            (base / PIN_NAME).write_text(pin)
            await models.until(lambda: "stay as they are" in caplog.text)
            models.put("m/2")
            assert available(served) == [1]
            write_pin(base, 2)
            await models.until(lambda: available(served) == [2])

    asyncio.run(check())
    assert caplog.text.count("stay as they are") == 1


def test_a_version_that_does_not_load_leaves_the_other_one(models: Any) -> None:
    base = models.put("m/1", fail_load="this file is damaged").parent
    models.put("m/2")

    async def check() -> None:
        async with models.ready(models.source("m")) as served:
            write_pin(base, 1)
            await models.until(lambda: any(s.error for s in served.statuses("m")))
            assert available(served) == [2]

    asyncio.run(check())


def test_a_server_that_starts_with_a_bad_pin_says_which(models: Any) -> None:
    base = models.put("m/1").parent
    write_pin(base, 4)

    async def check() -> None:
        source = models.source("m", awaits_versions=False)
        async with models.serving(source):
            pytest.fail("there is nothing to serve")

    with pytest.raises(NotFound, match=r"has no version 4, which is pinned \(there: 1\)") as bad:
        asyncio.run(check())
    assert str(bad.value.hint).endswith(f"mlserve models use latest --path {base}")
