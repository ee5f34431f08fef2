"""Echo models under one folder, and catalogs of them in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.models import Models
from mlserve.server.models.versions import ModelSpec
from mlserve.store import VersionPolicy
from tests.harness.echo import put_version


class EchoModels:
    """Echo models under one folder, and what was closed of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._backend = plugins.backend("echo")

    def put(self, path: str, **config: Any) -> Path:
        """Writes `path`, `<model>/<version>`; its label is the path."""
        journal = str(self.folder / f"{path}.journal")
        return put_version(self.folder / path, **{"label": path, "journal": journal, **config})

    def is_closed(self, path: str) -> bool:
        journal = self.folder / f"{path}.journal"
        return journal.exists() and "close" in journal.read_text().split()

    def source(self, model: str, folder: str = "", **changes: Any) -> ModelSpec:
        plain = ModelSpec(
            self._backend,
            model,
            self.folder / (folder or model),
            VersionPolicy(),
            LoadOptions(),
            0.01,
            awaits_versions=True,
        )
        return replace(plain, **changes)

    @staticmethod
    def label(loaded: LoadedVersion) -> str:
        """What that version answers; it stays leased."""
        images = {"image": np.array([b"x"], object)}
        answer: bytes = loaded.runner.run("serving_default", images)["output_0"][0]
        return answer.decode()

    def answer(self, served: Models, model: str, version: Any = None) -> str:
        loaded = served.lease(model, version)
        try:
            return self.label(loaded)
        finally:
            loaded.release()

    @staticmethod
    async def until(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what a test waits for is no event
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def serving(self, *sources: ModelSpec) -> AsyncIterator[Models]:
        """The models of a server with these first models, at once; it is closed at the end."""
        served = Models(lambda: None)
        await served.begin(sources)
        running = asyncio.create_task(served.run())
        try:
            yield served
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            async with asyncio.timeout(10):
                await served.close()

    @asynccontextmanager
    async def ready(self, *sources: ModelSpec) -> AsyncIterator[Models]:
        async with self.serving(*sources) as served:
            await self.until(lambda: served.is_ready)
            yield served


@pytest.fixture
def models(tmp_path: Path) -> EchoModels:
    return EchoModels(tmp_path)
