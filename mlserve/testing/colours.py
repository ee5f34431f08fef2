"""A classifier whose answers can be computed by hand: its logits are the mean colours.

Any backend can export it: `forward` is one mean over the pixels of an 8x8 image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlserve.artifact import digest_of
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.sources import Classifier

Array = np.ndarray[Any, Any]

LABELS = ("red", "green", "blue")
PIPELINE = ImagePipeline(8, 8, 1 / 255, 0.0, Activation.SOFTMAX, len(LABELS))


def colour_classifier(
    forward: Any,
    labels: tuple[str, ...] = LABELS,
    *,
    framework: str = "tensorflow",
    **pipeline: Any,
) -> Classifier:
    """Return a classifier around `forward`, by default with the labels red, green and blue.

    `forward` maps float32[N, 8, 8, 3] to float32[N, 3], the mean over the pixels. Other labels and
    pipeline settings give a different model.
    """
    return Classifier(
        name="colours",
        forward=forward,
        pipeline=replace(PIPELINE, **pipeline),
        labels=labels,
        source="a test",
        weights_digest=digest_of(b""),
        framework=framework,
    )


def expected_scores(pixels: Array, pipeline: ImagePipeline = PIPELINE) -> Array:
    """Compute the scores of an image with these pixels from the definitions: float64[3]."""
    logits = expected_input(pixels, pipeline).mean(axis=(0, 1))
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum())


def expected_input(pixels: Array, pipeline: ImagePipeline = PIPELINE) -> Array:
    """Compute the model's input for these pixels: float64[height, width, 3]."""
    resized = half_pixel_bilinear(pixels, pipeline.height, pipeline.width)
    return resized * pipeline.scale + pipeline.offset


def half_pixel_bilinear(pixels: Array, height: int, width: int) -> Array:
    """Resize by definition: sample at (i + 0.5) * scale - 0.5, clamp, blend four neighbours."""
    resized = pixels.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        length = resized.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        resized = np.take(resized, low, axis) * (1 - part) + np.take(resized, high, axis) * part
    return resized
