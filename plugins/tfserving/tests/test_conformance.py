"""The TensorFlow backend passes the conformance suite of mlserve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlserve.pipeline import Activation
from mlserve.sources import Classifier
from mlserve.testing import (
    ConformsAsBackend,
    ConformsAsImageClassifier,
    ConformsAsServer,
    KeepsLabels,
    ServesForeignClients,
)
from mlserve.testing.colours import colour_classifier

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]


class _TFServing:
    @pytest.fixture(scope="class")
    @classmethod
    def backend_name(cls) -> str:
        return "tfserving"

    @pytest.fixture(scope="class")
    @classmethod
    def classifier(cls) -> Classifier:
        import tensorflow as tf

        class MeanColours(tf.Module):  # type: ignore[misc]
            def __call__(self, pixels: Any) -> Any:
                return tf.reduce_mean(pixels, [1, 2])

        return colour_classifier(MeanColours())


class TestBackend(_TFServing, ConformsAsBackend):
    @pytest.fixture
    def refused(self, classifier: Classifier) -> Classifier:
        """Labels and pipeline say four classes; the model gives three."""
        four = replace(classifier.pipeline, classes=4)
        return replace(classifier, labels=("a", "b", "c", "d"), pipeline=four)


class TestImageClassifier(_TFServing, ConformsAsImageClassifier):
    @pytest.fixture(scope="class")
    @classmethod
    def divided(cls) -> Classifier:
        import tensorflow as tf

        class Divided(tf.Module):  # type: ignore[misc]
            def __call__(self, pixels: Any) -> Any:
                means = tf.reduce_mean(pixels, [1, 2])
                return means / means * means

        return colour_classifier(Divided(), activation=Activation.IDENTITY)


class TestServer(_TFServing, ConformsAsServer, ServesForeignClients):
    pass


class TestLabels(_TFServing, KeepsLabels):
    pass
