"""The colour classifier of the suite, and its artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import Artifact
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import LABELS, colour_classifier

MakeClassifier = Callable[..., Classifier]
Export = Callable[[Classifier, Path], Artifact]


@pytest.fixture(scope="session")
def make_classifier() -> MakeClassifier:
    """Makes a Classifier of a function float32[N, 8, 8, 3] -> float32[N, classes]."""
    import tensorflow as tf

    class Forward(tf.Module):  # type: ignore[misc]
        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function
            self.gain = tf.Variable(1.0)  # a model has variables, which must be saved too

        def __call__(self, pixels: Any) -> Any:
            return self.gain * self.function(pixels)

    def mean_colour(pixels: Any) -> Any:
        return tf.reduce_mean(pixels, [1, 2])

    def make(
        function: Callable[[Any], Any] = mean_colour,
        labels: tuple[str, ...] = LABELS,
        **pipeline: Any,
    ) -> Classifier:
        return colour_classifier(Forward(function), labels, **pipeline)

    return make


@pytest.fixture(scope="session")
def export_to() -> Export:
    """Exports a classifier as version 1 of a folder, manifest and labels included."""
    return lambda model, base_path: exported("tfserving", model, base_path)


@pytest.fixture(scope="session")
def artifact(
    make_classifier: MakeClassifier, export_to: Export, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """The exported colour classifier."""
    return export_to(make_classifier(), tmp_path_factory.mktemp("colours"))
