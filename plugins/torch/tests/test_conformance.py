"""The PyTorch backend passes the conformance suite of mlserve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mlserve.sources import Classifier
from mlserve.testing import (
    ConformsAsBackend,
    ConformsAsImageClassifier,
    ConformsAsServer,
    KeepsLabels,
    ServesForeignClients,
)

pytestmark = pytest.mark.framework


class _Torch:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "torch"

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls, colours: Classifier) -> Classifier:
        return colours


class TestBackend(_Torch, ConformsAsBackend):
    @pytest.fixture
    def refused(self, classifier: Classifier, tmp_path: Path) -> Classifier:
        """Weights alone, which is what most `.pt` files are."""
        torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "weights.pt")
        return replace(classifier, forward=tmp_path / "weights.pt")


class TestImageClassifier(_Torch, ConformsAsImageClassifier):
    @pytest.fixture(scope="class")
    @classmethod
    def divided(cls, divided_colours: Classifier) -> Classifier:
        return divided_colours


@pytest.mark.server
class TestServer(_Torch, ConformsAsServer, ServesForeignClients):
    pass


class TestLabels(_Torch, KeepsLabels):
    pass
