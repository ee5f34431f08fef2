"""Several models in one server: what is loaded, kept and given up when they are changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.backend import LoadOptions
from mlserve.errors import (
    InvalidInput,
    MlserveError,
    ModelLoadFailed,
    NotFound,
    PluginError,
    Unavailable,
)
from mlserve.server import repository
from mlserve.server.catalog import Catalog
from mlserve.server.loaded import LoadedVersion
from mlserve.server.served import Retries, ServedModel
from mlserve.server.versions import State, VersionPolicy


class Models:
    """Echo models under one folder, and what was closed of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._backend = plugins.backend("echo")

    def put(self, path: str, **config: Any) -> Path:
        """Writes `path`, `<model>/<version>`; its label is the path."""
        folder = self.folder / path
        incoming = folder.parent / f".{folder.name}"
        incoming.mkdir(parents=True)
        journal = str(folder.parent / f"{folder.name}.journal")
        content = {"label": path, "journal": journal, **config}
        (incoming / "echo.json").write_text(json.dumps(content))
        return incoming.rename(folder)

    def is_closed(self, path: str) -> bool:
        journal = self.folder / f"{path}.journal"
        return journal.exists() and "close" in journal.read_text().split()

    def source(self, model: str, folder: str = "", **changes: Any) -> ServedModel:
        plain = ServedModel(
            self._backend,
            model,
            self.folder / (folder or model),
            VersionPolicy(),
            LoadOptions(),
            0.01,
            awaits_versions=True,
        )
        return replace(plain, **changes)


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def label(loaded: LoadedVersion) -> str:
    """What that version answers; it stays leased."""
    images = {"image": np.array([b"x"], object)}
    answer: bytes = loaded.runner.run("serving_default", images)["output_0"][0]
    return answer.decode()


def answer(catalog: Catalog, model: str, version: Any = None) -> str:
    loaded = catalog.lease(model, version)
    try:
        return label(loaded)
    finally:
        loaded.release()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what a test waits for is no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(*sources: ServedModel) -> AsyncIterator[Catalog]:
    """A catalog of these first models, at once; it is closed at the end."""
    catalog = Catalog(lambda: None)
    catalog.begin(sources)
    running = asyncio.create_task(catalog.run())
    try:
        yield catalog
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        async with asyncio.timeout(10):
            await catalog.close()


@asynccontextmanager
async def ready(*sources: ServedModel) -> AsyncIterator[Catalog]:
    async with serving(*sources) as catalog:
        await until(lambda: catalog.is_ready)
        yield catalog


def test_each_model_has_its_folder_its_policy_and_its_labels(models: Models) -> None:
    for path in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        models.put(path)

    async def check() -> None:
        two = models.source("a", policy=VersionPolicy(latest=2), labels={"old": 2, "gone": 1})
        one = models.source("b", policy=VersionPolicy(versions=(1,)))
        async with ready(two, one) as catalog:
            await until(lambda: catalog.is_available("a", 3))
            assert catalog.models == ("a", "b")
            assert answer(catalog, "a") == "a/3"
            assert answer(catalog, "a", 2) == answer(catalog, "a", "old") == "a/2"
            assert answer(catalog, "b") == "b/1"
            with pytest.raises(NotFound, match="version 1 of a"):
                catalog.lease("a", "gone")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: new"):
                catalog.lease("a", "new")
            with pytest.raises(InvalidInput, match="Unrecognized servable version label: old"):
                catalog.statuses("b", "old")
            with pytest.raises(NotFound, match="model c; this server has 'a', 'b'"):
                catalog.lease("c", None)
            models.put("a/4")
            await until(lambda: answer(catalog, "a") == "a/4")
            await until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_it_is_ready_when_every_first_model_is(models: Models) -> None:
    models.put("a/1")

    async def check() -> None:
        async with serving(models.source("a"), models.source("b")) as catalog:
            await until(lambda: catalog.is_available("a", 1))
            assert not catalog.is_ready
            with pytest.raises(Unavailable, match="b has no version yet"):
                catalog.lease("b", None)
            models.put("b/1")
            await until(lambda: catalog.is_ready)

    asyncio.run(check())


def test_what_is_missing_is_said_again_and_again(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(repository, "REMIND_SECONDS", 0.0)

    async def check() -> None:
        async with serving(models.source("a")):
            await until(lambda: caplog.text.count("waiting for a version of a: the base path") > 1)

    asyncio.run(check())


def test_a_change_keeps_what_is_the_same(models: Models) -> None:
    for path in ("a/1", "a/2", "b/1", "c/1"):
        models.put(path)

    async def check() -> None:
        async with ready(models.source("a"), models.source("b")) as catalog:
            before = catalog.lease("a", None)
            both = models.source("a", policy=VersionPolicy(serves_all=True), labels={"x": 1})
            await catalog.serve([both, models.source("c")])
            assert catalog.lease("a", 2) is before
            assert [answer(catalog, "a", "x"), answer(catalog, "c")] == ["a/1", "c/1"]
            assert catalog.models == catalog.awaited == ("a", "c")
            await until(lambda: models.is_closed("b/1"))
            await catalog.serve([models.source("a", policy=VersionPolicy(versions=(1,)))])
            assert answer(catalog, "a") == "a/1"
            assert not models.is_closed("a/2"), "it is leased"
            before.release()
            before.release()
            await until(lambda: models.is_closed("a/2"))

    asyncio.run(check())


def test_another_folder_takes_over_once_it_is_loaded(models: Models) -> None:
    models.put("old/1")
    models.put("new/1", load_delay=0.1)

    async def check() -> None:
        async with ready(models.source("a", "old")) as catalog:
            change = asyncio.create_task(catalog.serve([models.source("a", "new")]))
            answers = []
            while not change.done():
                answers.append(answer(catalog, "a"))
                assert catalog.is_ready
                await asyncio.sleep(0.005)
            await change
            assert set(answers) >= {"old/1"}
            assert answer(catalog, "a") == "new/1"
            await until(lambda: models.is_closed("old/1"))

    asyncio.run(check())


def test_another_folder_takes_over_with_all_its_versions(models: Models) -> None:
    for path in ("old/1", "old/2", "new/1", "new/2"):
        models.put(path, load_delay=0.02)

    async def check() -> None:
        every = VersionPolicy(serves_all=True)
        old, new = (models.source("a", f, policy=every, labels={"x": 2}) for f in ("old", "new"))
        async with ready(old) as catalog:
            await until(lambda: catalog.is_available("a", 2))
            change = asyncio.create_task(catalog.serve([new]))
            while not change.done():
                assert answer(catalog, "a", "x") in ("old/2", "new/2")
                await asyncio.sleep(0.001)
            assert answer(catalog, "a", "x") == "new/2"

    asyncio.run(check())


def test_what_cannot_be_loaded_is_named_and_the_rest_is_served(models: Models) -> None:
    models.put("a/1")
    models.put("b/1")
    models.put("bad/1", fail_load="damaged")

    async def check() -> None:
        async with ready(models.source("a"), models.source("c", "a")) as catalog:
            new = [models.source("a", "bad"), models.source("b"), models.source("n")]
            with pytest.raises(ModelLoadFailed) as refused:
                await catalog.serve(new)
            assert "2 model(s) did not become available: a: damaged; n: the base" in str(refused)
            assert [answer(catalog, "a"), answer(catalog, "b")] == ["a/1", "b/1"]
            assert (catalog.models, catalog.awaited) == (("a", "b", "n"), ("a", "b"))
            assert catalog.is_ready
            with suppress(MlserveError):
                await catalog.serve(new)  # again: nothing is loaded twice
            models.put("bad/2")
            models.put("n/1")
            await until(lambda: answer(catalog, "a") == "bad/2")
            await until(lambda: catalog.awaited == ("a", "b", "n"))
            await catalog.serve([])
            assert catalog.models == ()

    asyncio.run(check())


def test_a_change_that_is_taken_back(models: Models) -> None:
    models.put("a/1")

    async def check() -> None:
        async with ready(models.source("a")) as catalog:
            with pytest.raises(ModelLoadFailed):
                await catalog.serve([models.source("a", "missing")])
            await catalog.serve([models.source("a")])
            models.put("missing/1")
            models.put("a/2")
            await until(lambda: answer(catalog, "a") == "a/2")

    asyncio.run(check())


def test_a_version_that_fails_is_tried_again(models: Models) -> None:
    folder = models.put("a/1", needs="no_such_module_yet")
    config = json.loads((folder / "echo.json").read_text())

    async def first_error(source: ServedModel) -> MlserveError:
        catalog = Catalog(lambda: None)
        catalog.begin([source])
        with pytest.raises(MlserveError) as broken:
            await catalog.run()
        await catalog.close()
        return broken.value

    async def check() -> None:
        absent = await first_error(models.source("a", retries=Retries(5, 60)))
        assert isinstance(absent, PluginError), "no use in trying that again"
        (folder / "echo.json").write_text(
            json.dumps({**config, "fail_load": "busy", "needs": None})
        )
        again = models.source("a", retries=Retries(2, 0.0), poll_seconds=0.0)
        assert (await first_error(again)).message == "busy"
        always = models.source("a", retries=Retries(10**6, 0.001), poll_seconds=0.0)
        async with serving(always) as catalog:
            await until(lambda: catalog.statuses("a")[0].error is not None)
            (folder / "echo.json").write_text(json.dumps({**config, "needs": None}))
            await until(lambda: catalog.is_ready)

    asyncio.run(check())


def test_a_version_that_is_not_wanted_any_more_is_not_tried_again(models: Models) -> None:
    models.put("a/1", fail_load="busy")

    async def check() -> None:
        source = models.source("a", retries=Retries(5, 0.05), poll_seconds=0.02)
        async with serving(source) as catalog:
            await until(lambda: catalog.statuses("a")[0].error is not None)
            models.put("a/2")
            await until(lambda: catalog.is_ready)
            pauses = [
                catalog._models["a"]._pause() for _ in range(20) if not await asyncio.sleep(0.01)
            ]
            assert set(pauses) == {0.02}, "or it would look again without a pause, for ever"

    asyncio.run(check())


def test_without_polling_a_model_must_be_there(models: Models) -> None:
    async def check() -> None:
        catalog = Catalog(lambda: None)
        catalog.begin([models.source("a", poll_seconds=0.0)])
        with pytest.raises(NotFound, match="cannot be read"):
            await catalog.run()

    asyncio.run(check())


def test_a_removed_model_ends_with_its_load(models: Models) -> None:
    models.put("a/1")
    models.put("b/1", load_delay=0.3)

    async def check(sources: Sequence[ServedModel]) -> None:
        async with serving(*sources) as catalog:
            await until(lambda: catalog.is_available("a", 1))
            await until(lambda: catalog.statuses("b")[0].state is State.LOADING)
            await catalog.serve(sources[:1])
            assert (catalog.models, catalog.is_ready) == (("a",), True)
            await until(lambda: models.is_closed("b/1"))
            assert not catalog.is_loading

    asyncio.run(check([models.source("a"), models.source("b")]))
