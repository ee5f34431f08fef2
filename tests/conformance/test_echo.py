"""The backend without a model passes the conformance suite too: what it promises, it keeps."""

from __future__ import annotations

import pytest

from mlserve.sources import Classifier
from mlserve.testing import ConformsAsBackend, ConformsAsServer, ServesForeignClients
from mlserve.testing.colours import colour_classifier

pytestmark = pytest.mark.server


class _Echo:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "echo"

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls) -> Classifier:
        return colour_classifier(None)


class TestBackend(_Echo, ConformsAsBackend):
    pass


class TestServer(_Echo, ConformsAsServer, ServesForeignClients):
    @pytest.fixture(scope="class")
    @classmethod
    def label(cls) -> str:
        return "red"

    @pytest.fixture(scope="class")
    @classmethod
    def bad_image(cls) -> bytes:
        return b"bad"
