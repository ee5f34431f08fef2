"""What a plugin gives to the conformance suite: the fixtures that every class of it shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Backend, LoadOptions, Runner
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.images import plain
from mlserve.testing.processes import ServerProcess, launched


class GivenBackend:
    """The fixtures. A plugin overrides `backend_name` and `classifier`.

    One that only serves overrides `artifact` in the place of `classifier`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        """The name of the backend, which is that of its entry point. To be overridden."""
        raise NotImplementedError("override the fixture backend_name")

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls) -> Classifier:
        """A model that the backend can export. To be overridden.

        For `ConformsAsImageClassifier`, the one that `mlserve.testing.colours` makes.
        """
        raise NotImplementedError("override the fixture classifier")

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, backend_name: str) -> Backend:
        """The backend, found as mlserve finds it."""
        return plugins.backend(backend_name)

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(
        cls,
        backend_name: str,
        classifier: Classifier,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Artifact:
        """The classifier, exported as version 1. Not to be changed: several tests use it.

        To be overridden by a backend that only serves: `Artifact.open(base_path, model, version)`
        for files in `base_path/<version>`, with a manifest or without.
        """
        base_path = tmp_path_factory.mktemp(backend_name) / classifier.name
        return exported(backend_name, classifier, base_path)

    @pytest.fixture(scope="class")
    @classmethod
    def runner(cls, backend: Backend, artifact: Artifact) -> Runner:
        """The exported classifier, loaded in this process."""
        return backend.load(artifact, LoadOptions())


class GivenServer(GivenBackend):
    """A server of the exported classifier, and an image with its answer.

    The defaults fit the classifier of `mlserve.testing.colours`.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def image(cls) -> bytes:
        """The file of an image that has the label of the fixture `label`."""
        return plain("green")

    @pytest.fixture(scope="class")
    @classmethod
    def label(cls) -> str:
        """The answer to `image`."""
        return "green"

    @pytest.fixture(scope="class")
    @classmethod
    def bad_image(cls) -> bytes:
        """The bytes of a file that the model refuses as no image."""
        return b"hello, world\n"

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, backend_name: str, artifact: Artifact) -> Iterator[ServerProcess]:
        """A server that is ready, for the tests of a class."""
        with launched(backend_name, artifact) as server:
            server.wait_ready()
            yield server
