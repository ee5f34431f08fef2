"""A model to deploy, and plans of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve.deploy.kubernetes.values import ClusterSetup
from mlserve.deploy.plan import DeployPlan
from mlserve.load_options import LoadOptions
from mlserve.served_model import ServedModel
from mlserve.settings import ServerSettings
from mlserve.store import VersionPolicy
from tests.harness.echo import EchoModel, manifest

MakePlan = Callable[..., DeployPlan]
IMAGE = "registry.example/flowers:3"


@pytest.fixture
def model(tmp_path: Path) -> EchoModel:
    found = EchoModel(tmp_path / "flowers")
    found.put(3, manifest=manifest("flowers"))
    return found


@pytest.fixture
def make_plan(model: EchoModel) -> MakePlan:
    """`make_plan(**fields)` is a plan; keys of settings and load options are taken for them."""

    def make(versions: tuple[int, ...] = (), **given: Any) -> DeployPlan:
        options = LoadOptions(**_popped(given, LoadOptions))
        settings = ServerSettings(**_popped(given, ServerSettings))
        served = ServedModel(
            "echo", "flowers", model.base_path, VersionPolicy(versions), options, expected=(3,)
        )
        return DeployPlan(
            **{"name": "flowers", "image": IMAGE, **given}, model=served, settings=settings
        )

    return make


def _popped(given: dict[str, Any], kind: type[LoadOptions | ServerSettings]) -> dict[str, Any]:
    return {name: given.pop(name) for name in list(given) if name in kind.__dataclass_fields__}


@pytest.fixture
def access(tmp_path: Path) -> Path:
    """A folder with a token file."""
    folder = tmp_path / "access"
    folder.mkdir()
    (folder / "token").write_text("s3cret-of-this-test\n")
    return folder


ALL = ClusterSetup(
    namespace="vision", gateway="infra/main", hostnames="flowers.example", config_map=True
)
"""A setup with every part that there is, where the replicas are a range."""
