"""The graph's decoder against another libjpeg-turbo; the table of images is in test_conformance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simplejpeg
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import Artifact
from mlserve.backend import ImageStages
from mlserve.load_options import LoadOptions
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def stages(artifact: Artifact) -> ImageStages:
    return TFServingBackend().stages(artifact, LoadOptions())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 10}, {"quality": 100}]
)
def test_jpeg_is_decoded_to_the_same_bytes_as_by_simplejpeg(
    stages: ImageStages, mode: str, options: dict[str, Any]
) -> None:
    data = saved(noise(311, 173).convert(mode), **options)
    decoded = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    np.testing.assert_array_equal(stages.decoded(data), decoded)
