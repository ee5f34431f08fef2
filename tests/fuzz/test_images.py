"""The decoder of the ONNX Runtime backend: any bytes are an image, or refused in our own words."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve.errors import InvalidInput
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.images import Problem
from mlserve.server.codec.images import check_images
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

pytestmark = pytest.mark.tensorflow

MAX_PIXELS = 1_000_000
SETTINGS = ServerSettings(max_pixels=MAX_PIXELS)
PROFILE = settings.get_profile("fuzz")
SIGNATURE = Signature("s", (TensorSpec("image", DType.BYTES, (None,)),), ())
TEXTS = tuple(problem.text for problem in Problem)


def check(value: bytes) -> None:
    """Raises whatever is no answer and none of our refusals."""
    header_refuses = False
    try:
        check_images(SIGNATURE, {"image": np.array([value], object)}, SETTINGS)
    except InvalidInput:
        header_refuses = True
    try:
        pixels = decoded_image(value, SETTINGS.image_limits)
    except Refused as refused:
        if not refused.text.startswith(TEXTS):
            raise
        return
    assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    assert not header_refuses, "what can be decoded has a size that can be told"


def test_files_that_are_nearly_images(images: Any) -> None:
    settings(PROFILE)(given(images)(check))()


def test_texts_that_are_nearly_base64(images: Any) -> None:
    encode = st.sampled_from((base64.b64encode, base64.urlsafe_b64encode))
    texts = st.builds(
        lambda encode, data, end: encode(data)[:end], encode, images, st.none() | st.integers(1, 40)
    )
    settings(PROFILE)(given(texts)(check))()


@pytest.mark.parametrize(
    "start", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"/9j/", b"iVBORw0KGgo"]
)
def test_any_bytes(start: bytes) -> None:
    settings(PROFILE)(given(st.binary(max_size=200))(lambda rest: check(start + rest)))()


def test_the_corpus_itself_is_answered(corpus: list[bytes]) -> None:
    for data in corpus:
        assert decoded_image(data, SETTINGS.image_limits).size
