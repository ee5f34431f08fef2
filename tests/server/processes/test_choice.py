"""When a version gets processes of its own, without being told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlserve_echo import EchoBackend
from mlserve_echo_runner import EchoRunner

from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes import choice
from mlserve.settings import LogFormat
from mlserve.store import VersionPolicy
from tests.harness.echo import EchoModel, manifest

pytestmark = pytest.mark.server

Opened = Callable[..., LoadedVersion]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens a version of the echo backend, whose configuration is given, on this machine."""
    model, loop = EchoModel(tmp_path / "m"), asyncio.new_event_loop()

    async def open_(processes: int | None, threads: int | None) -> LoadedVersion:
        options = LoadOptions(processes=processes, threads=threads)
        source = ModelSpec(EchoBackend(), "m", model.base_path, VersionPolicy(), options, 0)
        opener = choice.Opener(LogFormat.TEXT, lambda: None)
        loaded = await asyncio.to_thread(opener.open, source, 1)
        await asyncio.sleep(0)  # until it is attached
        versions.append(loaded)
        return loaded

    def open_now(
        processes: int | None = None, threads: int | None = None, **config: object
    ) -> LoadedVersion:
        model.put(1, manifest=manifest(), **config)
        return loop.run_until_complete(open_(processes, threads))

    versions: list[LoadedVersion] = []
    try:
        yield open_now
    finally:
        for loaded in versions:
            loop.run_until_complete(loaded.close())
        loop.close()


def _count(loaded: LoadedVersion) -> int:
    return 0 if loaded.processes is None else len(loaded.processes.states)


def test_a_fast_model_on_many_cpus(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 3)
    loaded = opened()
    assert _count(loaded) == 3
    assert loaded.width == 3


def test_a_fast_model_with_fewer_threads(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 8)
    assert _count(opened(threads=2)) == 2


def test_a_slow_model_on_many_cpus(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 3)
    assert _count(opened(burn=0.02)) == 0


def test_a_fast_model_that_keeps_state(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    # In three processes, a counter would be three.
    monkeypatch.setattr(choice, "usable_cpus", lambda: 3)
    monkeypatch.setattr(EchoRunner, "keeps_state", True, raising=False)
    assert _count(opened()) == 0


def test_two_cpus(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 2)
    assert _count(opened()) == 0


def test_a_runtime_that_likes_batches(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 3)
    assert _count(opened(together=8)) == 0


def test_little_memory(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 16)
    own = choice.resident_bytes(os.getpid())
    monkeypatch.setattr(choice, "usable_memory", lambda: 5 * own)
    assert _count(opened()) == 2


def test_asked(opened: Opened) -> None:
    assert _count(opened(processes=2)) == 2


def test_one_is_none(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "usable_cpus", lambda: 3)
    assert _count(opened(processes=1)) == 0
