"""Image files through the exported graph: the documented answer or error for each kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mlserve.backend import Runner
from mlserve.errors import InvalidInput

pytestmark = pytest.mark.slow

Ask = Callable[..., dict[str, Any]]


def label_of(answer: dict[str, Any]) -> str:
    (label,) = answer["output_0"]
    return str(label.decode())


def test_an_odd_image_gets_its_answer(ask: Ask, odd_image: tuple[bytes, str]) -> None:
    data, label = odd_image
    assert label_of(ask(data)) == label


def test_a_bad_image_gets_its_error_and_the_next_one_its_answer(
    ask: Ask, images: Any, bad_image: tuple[bytes, str, str]
) -> None:
    data, kind, part = bad_image
    with pytest.raises(InvalidInput) as refused:
        ask(data)
    assert refused.value.kind == kind
    assert part in refused.value.message
    assert refused.value.message.startswith("the image is ")
    assert refused.value.hint
    assert label_of(ask(images.plain("blue"))) == "blue"


def test_a_bad_image_in_a_batch_is_named_by_its_index(
    ask: Ask, images: Any, bad_image: tuple[bytes, str, str]
) -> None:
    data, kind, part = bad_image
    good = images.plain("green")
    with pytest.raises(InvalidInput) as refused:
        ask(good, good, data, good, data, signature="top_k")
    assert refused.value.kind == kind
    assert refused.value.message.startswith("image 2 of 5 is ")
    assert part in refused.value.message
    assert "node" not in refused.value.message
    assert "\n" not in refused.value.message


def test_a_batch_of_unequal_sizes_equals_single_calls(ask: Ask, images: Any) -> None:
    files = [
        images.file(images.noise(40 * n, 90 - 10 * n, seed=n), "PNG" if n % 2 else "JPEG")
        for n in range(1, 8)
    ]
    together = ask(*files, signature="top_k")
    for row, file in enumerate(files):
        alone = ask(file, signature="top_k")
        for name in ("labels", "scores", "indices"):
            np.testing.assert_array_equal(together[name][row], alone[name][0])


def test_an_empty_batch_gets_empty_outputs(ask: Ask) -> None:
    assert ask()["output_0"].shape == (0,)
    answer = ask(signature="top_k")
    assert {name: array.shape for name, array in answer.items()} == {
        "labels": (0, 3),
        "scores": (0, 3),
        "indices": (0, 3),
    }


def test_scores_are_the_softmax_of_the_mean_colours(ask: Ask, images: Any) -> None:
    flat = Image.new("RGB", (31, 17), (51, 204, 102))
    answer = ask(images.file(flat, "PNG"), signature="top_k")
    weights = np.exp(np.array([51, 204, 102]) / 255)
    assert [label.decode() for label in answer["labels"][0]] == ["green", "blue", "red"]
    np.testing.assert_array_equal(answer["indices"], [[1, 2, 0]])
    np.testing.assert_allclose(answer["scores"][0], (weights / weights.sum())[[1, 2, 0]], 1e-6)


def pixels_of(runner: Runner, *files: bytes) -> Any:
    import tensorflow as tf

    return runner._pixels(tf.constant(list(files))).numpy()  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_is_decoded_to_the_same_bytes_as_by_pillow(
    runner: Runner, images: Any, mode: str, options: dict[str, Any]
) -> None:
    data = images.file(images.noise(8, 8).convert(mode), "JPEG", **options)  # no resize: 8x8
    decoded = np.rint(pixels_of(runner, data)[0] * 255).astype(np.uint8)
    pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded, pillow)
    if mode != "CMYK":
        np.testing.assert_array_equal(decoded, simplejpeg.decode_jpeg(data))


def test_the_upper_8_bits_of_a_16_bit_png_count(runner: Runner, images: Any) -> None:
    numbers = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1023
    data = images.file(Image.fromarray(numbers), "PNG")
    decoded = np.rint(pixels_of(runner, data)[0] * 255).astype(np.uint8)
    np.testing.assert_array_equal(decoded, np.repeat((numbers >> 8)[..., None], 3, axis=2))


def test_exif_orientation_is_not_applied(runner: Runner, images: Any) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = images.noise(8, 8)
    plain, marked = (images.file(image, "JPEG", **o) for o in ({}, {"exif": turned}))
    np.testing.assert_array_equal(*pixels_of(runner, plain, marked))


def half_pixel_bilinear(image: Any, height: int, width: int) -> Any:
    """The definition: sample at (i + 0.5) * scale - 0.5, clamp, blend the four neighbours."""
    image = image.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        length = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, length - 1)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        image = np.take(image, low, axis) * (1 - part) + np.take(image, high, axis) * part
    return image


@pytest.mark.parametrize("size", [(64, 48), (9, 7), (3, 5), (1, 1), (500, 8), (8, 8)])
def test_resize_is_bilinear_with_half_pixels_and_no_antialias(
    runner: Runner, images: Any, size: tuple[int, int]
) -> None:
    image = images.noise(*size)
    resized = pixels_of(runner, images.file(image, "PNG"))[0] * 255
    np.testing.assert_allclose(resized, half_pixel_bilinear(np.asarray(image), 8, 8), atol=1e-3)
