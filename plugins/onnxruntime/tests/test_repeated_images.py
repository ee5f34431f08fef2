"""An image that a request repeats is decoded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.image_pipeline import steps
from mlserve.load_options import LoadOptions
from mlserve.testing.images import plain


def test_an_image_that_repeats_is_decoded_once(
    colours_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, as TensorFlow's way to fill a shape makes them."""
    decoded: list[bytes] = []

    def count(image: bytes, *options: Any) -> Any:
        decoded.append(image)
        return original(image, *options)

    original = steps.decoded_image
    runner = plugins.backend("onnxruntime").load(colours_artifact, LoadOptions())
    try:
        red, blue = (plain(colour) for colour in ("red", "blue"))
        alone = [_scores(runner, image)[0] for image in (red, blue)]
        monkeypatch.setattr(steps, "decoded_image", count)
        together = _scores(runner, red, *[blue] * 5, red)
    finally:
        runner.close()
    assert decoded == [red, blue, red]
    np.testing.assert_array_equal(together, [alone[0], *[alone[1]] * 5, alone[0]])


def _scores(runner: Any, *images: bytes) -> Any:
    array = np.array([*images, None], dtype=object)[:-1]
    return runner.run("top_k", {"image": array})["scores"]
