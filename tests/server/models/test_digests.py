"""A server checks the files of a version before it loads them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mlserve import plugins
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import open_version
from mlserve.server.models.model import Model
from mlserve.server.models.versions import ModelSpec, State
from mlserve.store import VersionPolicy
from tests.harness.echo import manifest, put_version


def spec(base_path: Path) -> ModelSpec:
    return ModelSpec(
        plugins.backend("echo"), "m", base_path, VersionPolicy(), LoadOptions(), poll_seconds=0.0
    )


def test_a_changed_file_is_named_before_the_runtime_opens_it(tmp_path: Path) -> None:
    folder = put_version(tmp_path / "1", manifest=manifest(), label="ox")
    (folder / "echo.json").write_text('{"label": "no')  # the runtime could not read it
    with pytest.raises(ModelLoadFailed, match=r"1/echo.json has 13 bytes instead of 15") as found:
        open_version(spec(tmp_path), 1)
    assert "mlserve models verify" in str(found.value.hint)


@pytest.mark.parametrize("name", ["variables/more", "more.json"])
def test_a_file_that_was_added_is_refused(tmp_path: Path, name: str) -> None:
    folder = put_version(tmp_path / "1", manifest=manifest())
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    with pytest.raises(ModelLoadFailed, match=f"{name} is not an exported file"):
        open_version(spec(tmp_path), 1)


def test_a_served_version_whose_file_is_changed_goes_on_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put_version(tmp_path / "1", manifest=manifest(), label="ox")

    async def check() -> Any:
        model = Model(spec(tmp_path), lambda: None)
        await model.find()
        await model.load()
        before = model.lease(None)
        before.release()
        (folder / "echo.json").write_text('{"label": "zebra"}')
        for _ in range(2):
            await model._update()
        with model.lease(None) as after:
            assert after is before
        states = [status.state for status in model.statuses()]
        await model.close()
        return states

    assert asyncio.run(check()) == [State.AVAILABLE]
    assert "echo.json has 18 bytes instead of 15" in caplog.text
