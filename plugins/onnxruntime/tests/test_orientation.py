"""Images that a camera wrote down turned: an export can serve them upright."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from PIL import Image, ImageOps

from mlserve.load_options import LoadOptions
from mlserve.pipeline import Exif
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import colour_classifier, expected_input
from mlserve.testing.images import noise, saved, turned

pytestmark = pytest.mark.framework


def test_an_export_with_exif_applied_serves_upright_images(
    mean_colours: Path, tmp_path: Path
) -> None:
    model = colour_classifier(mean_colours, framework="onnx", exif=Exif.APPLY)
    artifact = exported("onnxruntime", model, tmp_path / "colours")
    data = saved(noise(37, 23), "PNG", exif=turned(6))

    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))

    stages = OnnxRuntimeBackend().stages(artifact, LoadOptions())

    np.testing.assert_array_equal(stages.decoded(data), upright)
    np.testing.assert_allclose(stages.resized(data), expected_input(upright), atol=1e-5)
    assert artifact.manifest is not None
    assert artifact.manifest.to_json()["pipeline"]["exif"] == "apply"
