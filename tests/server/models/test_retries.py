"""Several models in one server: a version that fails is tried again while it is wanted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mlserve.errors import (
    MlserveError,
    PluginError,
)
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadRetries, ModelSpec


def test_a_version_that_fails_is_tried_again(models: Any) -> None:
    folder = models.put("a/1", needs="no_such_module_yet")
    config = json.loads((folder / "echo.json").read_text())

    async def first_error(source: ModelSpec) -> MlserveError:
        served = Models(lambda: None)
        await served.begin([source])
        with pytest.raises(MlserveError) as broken:
            await served.run()
        await served.close()
        return broken.value

    async def check() -> None:
        absent = await first_error(models.source("a", retries=LoadRetries(5, 60)))
        assert isinstance(absent, PluginError), "no use in trying that again"
        (folder / "echo.json").write_text(
            json.dumps({**config, "fail_load": "busy", "needs": None})
        )
        again = models.source("a", retries=LoadRetries(2, 0.0), poll_seconds=0.0)
        assert (await first_error(again)).message == "busy"
        always = models.source("a", retries=LoadRetries(10**6, 0.001), poll_seconds=0.0)
        async with models.serving(always) as served:
            await models.until(lambda: served.statuses("a")[0].error is not None)
            (folder / "echo.json").write_text(json.dumps({**config, "needs": None}))
            await models.until(lambda: served.is_ready)

    asyncio.run(check())


def test_a_version_that_is_not_wanted_any_more_is_not_tried_again(models: Any) -> None:
    models.put("a/1", fail_load="busy")

    async def check() -> None:
        source = models.source("a", retries=LoadRetries(5, 0.05), poll_seconds=0.02)
        async with models.serving(source) as served:
            await models.until(lambda: served.statuses("a")[0].error is not None)
            models.put("a/2")
            await models.until(lambda: served.is_ready)
            pauses = [
                served._models["a"]._pause() for _ in range(20) if not await asyncio.sleep(0.01)
            ]
            assert set(pauses) == {0.02}, "or it would look again without a pause, for ever"

    asyncio.run(check())
