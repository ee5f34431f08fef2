"""The versions of a ladder are loaded together and unloaded together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve import plugins
from mlserve.errors import MlserveError
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.server.models.ladders import open_served, options_for
from mlserve.server.models.versions import ModelSpec
from mlserve.store import VersionPolicy
from tests.harness.echo import EchoModel, manifest
from tests.harness.ladder import certificate_of

LADDER = "echo/m@2,echo/m@1"


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    (tmp_path / "echo").mkdir()
    return EchoModel(tmp_path / "echo" / "m")


def put(model: EchoModel, version: int, precision: Precision, **config: Any) -> None:
    certificate = certificate_of(0.01) if precision is Precision.INT8 else None
    fields = replace(manifest(), precision=precision, certificate=certificate)
    model.put(version, manifest=fields, **config)


def spec(model: EchoModel, ladder: str | None = LADDER) -> ModelSpec:
    options = LoadOptions(ladder=ladder)
    policy = VersionPolicy((1,))
    return ModelSpec(plugins.backend("echo"), "m", model.base_path, policy, options, 0.0)


def test_without_a_ladder_one_version_is_opened(model: EchoModel) -> None:
    put(model, 1, Precision.FP32)
    loaded = open_served(spec(model, None), 1)
    assert loaded.ladder is None
    loaded.runner.close()


def test_a_version_that_is_not_the_last_rung_is_refused(model: EchoModel) -> None:
    put(model, 1, Precision.FP32)
    put(model, 2, Precision.INT8)
    with pytest.raises(MlserveError, match="version 2 is not on the ladder echo/m@2,echo/m@1, wh"):
        open_served(spec(model), 2)


def test_a_rung_gets_the_options_that_its_backend_has() -> None:
    given = LoadOptions(threads=2, provider="cpu", ladder=LADDER)
    assert options_for(plugins.backend("echo"), given) == LoadOptions(threads=2)
    assert options_for(plugins.backend("onnxruntime"), given).provider == "cpu"
