"""An image that a request repeats is decoded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.deadline import Deadline
from mlserve.image_pipeline import steps
from mlserve.image_pipeline.steps import ImageSteps
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.testing.images import plain


class MeanColours:
    """A model of pixels whose scores are the mean of each colour."""

    def __call__(self, pixels: Any, deadline: Deadline | None = None) -> Any:
        return pixels.mean(axis=(1, 2))

    def warm_up(self, black: Any) -> None:
        """Need none."""

    def close(self) -> None:
        """Hold nothing."""


def test_an_image_that_repeats_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, as TensorFlow's way to fill a shape makes them."""
    decoded: list[bytes] = []

    def count(image: bytes, *options: Any) -> Any:
        decoded.append(image)
        return original(image, *options)

    original = steps.decoded_image
    pipeline = ImagePipeline(8, 8, 1 / 255, 0.0, Activation.IDENTITY, classes=3)
    images = ImageSteps(pipeline, MeanColours())
    red, blue = (plain(colour) for colour in ("red", "blue"))
    alone = [images.batch_scores([image], None)[0] for image in (red, blue)]
    monkeypatch.setattr(steps, "decoded_image", count)
    together = images.batch_scores([red, *[blue] * 5, red], None)
    assert decoded == [red, blue, red]
    np.testing.assert_array_equal(together, [alone[0], *[alone[1]] * 5, alone[0]])
