"""Fixtures shared by all classes of the conformance suite; a plugin overrides some."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Backend, Runner
from mlserve.load_options import LoadOptions
from mlserve.sources import Classifier, Model
from mlserve.testing.artifacts import exported
from mlserve.testing.images import plain
from mlserve.testing.processes import ServerProcess, launched


class GivenBackend:
    """Fixtures of a backend. A plugin overrides `backend_name`, and `classifier` or `model`.

    One that only serves overrides `artifact` in the place of both.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        """Return the backend's name, which is its entry point's. To be overridden."""
        raise NotImplementedError("override the fixture backend_name")

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls) -> Classifier:
        """Return an image classifier that the backend can export. To be overridden.

        For `ConformsAsImageClassifier`, use the one that `mlserve.testing.colours` makes.
        """
        raise NotImplementedError("override the fixture classifier")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, classifier: Classifier) -> Model:
        """Return a model that the backend can export: the classifier, unless it is overridden."""
        return classifier

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, backend_name: str) -> Backend:
        """Return the backend, looked up as mlserve does."""
        return plugins.backend(backend_name)

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(
        cls,
        backend_name: str,
        model: Model,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Artifact:
        """Export the model as version 1. Several tests share it, so it must not be changed.

        To be overridden by a backend that only serves: `Artifact.open(base_path, model, version)`
        for files in `base_path/<version>`, with a manifest or without.
        """
        base_path = tmp_path_factory.mktemp(backend_name) / model.name
        return exported(backend_name, model, base_path)

    @pytest.fixture(scope="class")
    @classmethod
    def runner(cls, backend: Backend, artifact: Artifact) -> Runner:
        """Return the exported model, loaded in this process."""
        return backend.load(artifact, LoadOptions())


class GivenServer(GivenBackend):
    """Fixtures of a server with the exported classifier, and of an image with its answer.

    The defaults fit the classifier of `mlserve.testing.colours`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls) -> bytes:
        """Return the file of an image whose label is the fixture `label`."""
        return plain("green")

    @pytest.fixture(scope="class")
    @classmethod
    def label(cls) -> str:
        """Return the answer to `image`."""
        return "green"

    @pytest.fixture(scope="class")
    @classmethod
    def bad_image(cls) -> bytes:
        """Return the bytes of a file that the model rejects because it is not an image."""
        return b"hello, world\n"

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, backend_name: str, artifact: Artifact) -> Iterator[ServerProcess]:
        """Yield a ready server, shared by the tests of a class."""
        with launched(backend_name, artifact) as server:
            server.wait_ready()
            yield server
