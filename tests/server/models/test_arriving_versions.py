"""Version folders that arrive file by file, or change: when they are loaded, and when not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlserve import plugins
from mlserve.load_options import LoadOptions
from mlserve.server.models.folders import unfinished_versions
from mlserve.server.models.model import Model
from mlserve.server.models.versions import ModelSpec, State
from mlserve.store import VersionPolicy
from mlserve.testing.processes import wait_until
from tests.harness.echo import LABELS, manifest


def label(server: Any) -> Any:
    answer = server.post({"inputs": ["x"]})
    return answer.json()["outputs"][0] if answer.status_code == 200 else answer.json()


def message(server: Any, version: int) -> str:
    statuses = httpx.get(f"http://{server.rest}/v1/models/m").json()["model_version_status"]
    told = {status["version"]: status["status"]["error_message"] for status in statuses}
    return str(told.get(str(version), ""))


def copied(folder: Path, **config: Any) -> None:
    """Writes the model's own file into a version folder, as a slow copy does."""
    folder.mkdir(exist_ok=True)
    (folder / "echo.json").write_text(json.dumps(config))


@pytest.mark.server
def test_a_version_whose_manifest_arrives_last_takes_over_when_it_is_there(
    model: Any, start: Any
) -> None:
    model.put(1, manifest=manifest(), label="one")
    server = start()
    copied(model.base_path / "2", label="two")
    wait_until(lambda: "has no mlserve.json yet" in message(server, 2))
    assert label(server) == "one"
    refused = server.post({"inputs": ["x"]}, "/v1/models/m/versions/2:predict")
    assert (refused.status_code, "no mlserve.json yet" in refused.text) == (503, True)
    manifest().write(model.base_path / "2", LABELS)
    wait_until(lambda: label(server) == "two")
    wait_until(lambda: server.state(1) == "END")
    assert server.log().count("loading version 2") == 1


@pytest.mark.server
def test_a_half_copied_version_at_the_start_leaves_the_whole_one_serving(
    model: Any, start: Any
) -> None:
    model.put(1, manifest=manifest(), label="one")
    copied(model.base_path / "2", label="two")
    server = start()
    assert label(server) == "one"
    manifest().write(model.base_path / "2", LABELS)
    wait_until(lambda: label(server) == "two")


@pytest.mark.server
def test_a_served_version_whose_files_change_is_loaded_again(model: Any, start: Any) -> None:
    folder = model.put(1, label="one")
    server = start()
    copied(folder, label="changed", load_delay=0.2, journal=str(model.journal))
    while (answer := label(server)) != "changed":
        assert answer == "one"
    wait_until(lambda: model.runs()[-1] == "close" or model.runs().count("close") == 1)
    copied(folder, fail_load="this file is damaged")
    wait_until(lambda: "this file is damaged" in server.log())
    assert (label(server), server.state(1)) == ("changed", "AVAILABLE")
    copied(folder, label="mended")
    wait_until(lambda: label(server) == "mended")


def test_a_folder_is_loaded_once_two_looks_have_found_it_the_same(tmp_path: Path) -> None:
    copied(tmp_path / "1", label="one")
    source = ModelSpec(
        plugins.backend("echo"), "m", tmp_path, VersionPolicy(), LoadOptions(), poll_seconds=0.0
    )

    async def check() -> None:
        model = Model(source, lambda: None)
        await model.find()
        await model.load()  # what is there at the start does not wait
        assert states(model) == {1: State.AVAILABLE}
        for size in range(3):
            copied(tmp_path / "2", label="x" * size)
            await model._update()
            assert states(model) == {2: State.START, 1: State.AVAILABLE}
        await model._update()
        assert states(model)[2] is State.AVAILABLE
        (tmp_path / "3").mkdir()
        await model._update()
        (tmp_path / "3").rmdir()
        await model._update()
        assert states(model)[3] is State.END, "it went away before it was loaded"
        copied(tmp_path / "3", label="three")
        await model.change(source)
        assert states(model)[3] is State.AVAILABLE, "who asks for it has put it there"
        await model.close()

    asyncio.run(check())


def test_a_raw_version_that_is_served_stays_when_an_exported_one_comes_below_it(
    tmp_path: Path,
) -> None:
    copied(tmp_path / "2", label="raw")
    source = ModelSpec(
        plugins.backend("echo"), "m", tmp_path, VersionPolicy(), LoadOptions(), poll_seconds=0.0
    )

    async def check() -> None:
        model = Model(source, lambda: None)
        await model.find()
        await model.load()
        copied(tmp_path / "1", label="exported")
        manifest().write(tmp_path / "1", LABELS)
        for _ in range(3):
            await model._update()
        assert states(model) == {2: State.AVAILABLE}
        await model.close()

    asyncio.run(check())


def states(model: Model) -> dict[int, State]:
    return {status.version: status.state for status in model.statuses()}


@pytest.mark.parametrize(
    ("exported", "policy", "unfinished"),
    [
        ((), VersionPolicy(), ()),
        ((1,), VersionPolicy(), (2, 3)),
        ((2,), VersionPolicy(serves_all=True), (3,)),
        ((1,), VersionPolicy(versions=(2,)), ()),
        ((1,), VersionPolicy(versions=(1, 3)), (3,)),
        ((1, 2, 3), VersionPolicy(), ()),
    ],
)
def test_a_version_without_a_manifest_follows_only_those_that_have_none(
    tmp_path: Path,
    exported: tuple[int, ...],
    policy: VersionPolicy,
    unfinished: tuple[int, ...],
) -> None:
    for version in (1, 2, 3):
        (tmp_path / str(version)).mkdir()
    for version in exported:
        (tmp_path / str(version) / "mlserve.json").touch()
    assert unfinished_versions(tmp_path, policy, (1, 2, 3)) == unfinished
