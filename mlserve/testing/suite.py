"""The conformance suite as `pytest --mlserve-backend NAME` runs it, on any installed backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve import plugins
from mlserve.artifact import Artifact, folders_by_version
from mlserve.backend import Backend
from mlserve.testing.backend import ConformsAsLoader
from mlserve.testing.tensor_server import ConformsAsTensorServer

_NO_SAMPLE = (
    "the backend {!r} has no sample model: give it one, --mlserve-model DIR, a folder that holds "
    "numbered version folders"
)


_NO_VERSION = "--mlserve-model {}: it is not a folder that holds numbered version folders"


class _Chosen:
    """The backend and the model that the command line names."""

    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls, request: pytest.FixtureRequest) -> str:
        name: str = request.config.getoption("--mlserve-backend")
        return name

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(
        cls,
        request: pytest.FixtureRequest,
        backend_name: str,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Artifact:
        given: str | None = request.config.getoption("--mlserve-model")
        if given is not None:
            folder = Path(given).absolute()
            versions = folders_by_version(folder) if folder.is_dir() else {}
            if not versions:
                pytest.fail(_NO_VERSION.format(given), pytrace=False)
            return Artifact.open(folder, folder.name, max(versions))
        base_path = tmp_path_factory.mktemp(backend_name) / "sample"
        (base_path / "1").mkdir(parents=True)
        backend = plugins.backend(backend_name)
        if type(backend).sample is Backend.sample:
            pytest.fail(_NO_SAMPLE.format(backend_name), pytrace=False)
        backend.sample(base_path / "1")
        return Artifact.open(base_path, "sample", 1)


class TestLoader(_Chosen, ConformsAsLoader):
    """What the backend says of itself, and loading."""


class TestServer(_Chosen, ConformsAsTensorServer):
    """A server process of the model: both protocols, gRPC and REST."""
