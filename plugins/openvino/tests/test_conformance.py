"""The OpenVINO backend passes the conformance suite of mlserve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from mlserve.sources import Classifier
from mlserve.testing import (
    ConformsAsBackend,
    ConformsAsImageClassifier,
    ConformsAsServer,
    KeepsLabels,
    ServesForeignClients,
)

pytestmark = pytest.mark.framework


class _OpenVino:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "openvino"

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls, colours: Classifier) -> Classifier:
        return colours


class TestBackend(_OpenVino, ConformsAsBackend):
    @pytest.fixture
    def refused(self, classifier: Classifier, tmp_path: Path) -> Classifier:
        """A file that breaks the rules of ONNX: a node reads what nothing gives."""
        model = onnx.load(str(classifier.forward))
        model.graph.node[0].input[0] = "nothing"
        onnx.save(model, str(tmp_path / "refused.onnx"))
        return replace(classifier, forward=tmp_path / "refused.onnx")


class TestImageClassifier(_OpenVino, ConformsAsImageClassifier):
    @pytest.fixture(scope="class")
    @classmethod
    def divided(cls, divided_colours: Classifier) -> Classifier:
        return divided_colours


@pytest.mark.server
class TestServer(_OpenVino, ConformsAsServer, ServesForeignClients):
    pass


class TestLabels(_OpenVino, KeepsLabels):
    pass
