"""The folder of a model, as the front looks at it every second."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlserve_ray import store_watch
from mlserve_ray.store_watch import StoreWatch

from mlserve import plugins
from mlserve.load_options import LoadOptions
from mlserve.server.models.versions import ModelSpec, VersionPolicy
from tests.harness.echo import EchoModel


def test_the_files_of_a_version_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version without a manifest is known by the bytes of all its files."""
    model = EchoModel(tmp_path / "m")
    model.put(1, label="one")
    read: list[Path] = []
    identity = store_watch.identity

    def noted(folder: Path) -> str:
        read.append(folder)
        return identity(folder)

    monkeypatch.setattr(store_watch, "identity", noted)
    echo = plugins.backend("echo")
    spec = ModelSpec(echo, "m", model.base_path, VersionPolicy(), LoadOptions(), poll_seconds=1.0)
    watch = StoreWatch(spec, None)
    first = watch.first()
    for _ in range(3):
        watch.look((1,))
    assert len(read) == 1
    (model.base_path / "1" / "echo.json").write_text('{"label": "another"}')
    for _ in range(3):
        aim = watch.look((1,))
    assert len(read) == 2
    assert aim is not None
    assert aim.digests != first.digests
