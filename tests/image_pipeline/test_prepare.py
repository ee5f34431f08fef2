"""A decoded image becomes the numbers that the training code made of it, bit for bit.

The references are written from the sources they name, with Pillow and numpy alone: `transforms` of
torchvision, which timm uses too, and `image_transforms` and the fast processors of transformers.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded
from mlserve.image_pipeline import pillow_resizing
from mlserve.image_pipeline.arithmetic import normalized, table
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.prepare import prepare
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.preprocessing import (
    Arithmetic,
    Channels,
    CropOffset,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW = {
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.NEAREST: Image.Resampling.NEAREST,
}
SIDES = st.sampled_from([1, 2, 3, 7, 31, 32, 33, 97, 128, 211]) | st.integers(1, 250)


def prepared(image: Any, pipeline: ImagePipeline) -> Any:
    into = np.full((*pipeline.size, pipeline.preprocessing.depth), np.nan, np.float32)
    prepare(image, pipeline, None, into)
    return into


def pixels(height: int, width: int) -> Any:
    """Noise, so that every wrong neighbour shows."""
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pipeline_of(size: tuple[int, int], **steps: Any) -> ImagePipeline:
    activation = Activation.SOFTMAX
    return ImagePipeline(*size, 1 / 255, 0.0, activation, 3, preprocessing=Preprocessing(**steps))


def pillow(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """`Image.resize` as Pillow up to 12 does it: the width first. Pillow 13 may turn that round."""
    if how is Image.Resampling.NEAREST:
        return image.resize(size, how)
    return image.resize((size[0], image.height), how).resize(size, how)


def torchvision_resized(image: Image.Image, edge: int, how: Image.Resampling) -> Image.Image:
    """`functional.resize` of a PIL image to one edge."""
    width, height = image.size
    short, long = sorted((width, height))
    longer = int(edge * long / short)
    size = (edge, longer) if width <= height else (longer, edge)
    return pillow(image, size, how)


def torchvision_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """`functional.center_crop` of a PIL image: padded with black, then cut."""
    wide, tall = max(image.width, width), max(image.height, height)
    padded = Image.new(image.mode, (wide, tall))
    padded.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
    top, left = round((tall - height) / 2.0), round((wide - width) / 2.0)
    return padded.crop((left, top, left + width, top + height))


def torchvision_numbers(image: Image.Image) -> Any:
    """`to_tensor`, then `normalize`, in float32; the channels last."""
    values = np.asarray(image).astype(np.float32) / np.float32(255)
    return (values - np.array(MEAN, np.float32)) / np.array(STD, np.float32)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.integers(1, 130), SIDES, SIDES, st.sampled_from(Interpolation))
@example(1, 1, 256, 224, 224, Interpolation.BICUBIC)
@example(1, 300, 32, 224, 224, Interpolation.BILINEAR)
@example(300, 1, 32, 224, 224, Interpolation.NEAREST)
@example(3, 1999, 16, 5, 1000, Interpolation.BICUBIC)
def test_torchvisions_evaluation(
    tall: int, wide: int, edge: int, height: int, width: int, interpolation: Interpolation
) -> None:
    """Resize the shorter edge, cut the centre, `ToTensor`, `Normalize`."""
    image = pixels(tall, wide)
    is_nearest = interpolation is Interpolation.NEAREST
    resize = Resize(ResizeMode.SHORTEST_EDGE, (edge, edge), interpolation, antialias=not is_nearest)
    pipeline = pipeline_of(
        (height, width), resize=resize, arithmetic=Arithmetic.DIVIDE, mean=MEAN, std=STD
    )
    shrunk = torchvision_resized(Image.fromarray(image), edge, PILLOW[interpolation])
    expected = torchvision_numbers(torchvision_crop(shrunk, height, width))
    np.testing.assert_array_equal(prepared(image, pipeline), expected)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(Interpolation))
def test_a_direct_resize_is_pillows(
    tall: int, wide: int, height: int, width: int, interpolation: Interpolation
) -> None:
    image = pixels(tall, wide)
    is_nearest = interpolation is Interpolation.NEAREST
    resize = Resize(interpolation=interpolation, antialias=not is_nearest)
    steps = pipeline_of((height, width), resize=resize)
    expected = np.asarray(pillow(Image.fromarray(image), (width, height), PILLOW[interpolation]))
    np.testing.assert_array_equal(
        prepared(image, replace(steps, scale=1.0)), expected.astype(np.float32)
    )


def test_a_photo_is_resized_in_strips_and_the_result_is_the_same() -> None:
    image = pixels(1500, 2001)
    resize = Resize(ResizeMode.SHORTEST_EDGE, (256, 256), Interpolation.BICUBIC, antialias=True)
    pipeline = pipeline_of((224, 224), resize=resize)
    assert image.shape[0] * image.shape[1] > 2 * pillow_resizing._STRIP
    whole = torchvision_resized(Image.fromarray(image), 256, Image.Resampling.BICUBIC)
    expected = np.asarray(torchvision_crop(whole, 224, 224))
    np.testing.assert_array_equal(
        prepared(image, replace(pipeline, scale=1.0)), expected.astype(np.float32)
    )


def test_the_strips_of_a_tall_image_count_the_pixels_that_they_become() -> None:
    column = np.zeros((60_000, 1, 3), np.uint8)
    strips = [strip for _, strip in pillow_resizing.strips(column, None, 4096)]
    assert max(strip.height for strip in strips) * 4096 <= pillow_resizing._STRIP
    assert sum(strip.height for strip in strips) == 60_000


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([Interpolation.BILINEAR, Interpolation.BICUBIC]))
def test_one_call_of_pillow_is_the_same_where_it_begins_with_the_width(
    tall: int, wide: int, height: int, width: int, interpolation: Interpolation
) -> None:
    """Pillow 13 begins with the height if more than twice as many rows as columns go."""
    assume(tall <= height or tall - height <= 2 * (wide - width))
    image, size = Image.fromarray(pixels(tall, wide)), (width, height)
    whole = image.resize(size, PILLOW[interpolation])
    np.testing.assert_array_equal(whole, pillow(image, size, PILLOW[interpolation]))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_grey_is_pillows_and_comes_before_the_resize(antialias: bool, depth: int) -> None:
    image = pixels(61, 83)
    steps = pipeline_of(
        (32, 24), channels=Channels.GREY, depth=depth, resize=Resize(antialias=antialias)
    )
    grey = Image.fromarray(image).convert("L")
    again = np.repeat(np.asarray(grey)[:, :, np.newaxis], 3, axis=2)
    plain = pipeline_of((32, 24), resize=Resize(antialias=antialias))
    expected = prepared(again, plain)[:, :, :depth]
    np.testing.assert_array_equal(prepared(image, steps), expected)
    if antialias:
        small = np.asarray(pillow(grey, (24, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(
            prepared(image, replace(steps, scale=1.0))[:, :, 0], small.astype(np.float32)
        )


@pytest.mark.parametrize("antialias", [True, False])
def test_bgr_is_rgb_in_another_order_and_the_mean_follows_it(antialias: bool) -> None:
    """`preprocess_input` of keras.applications in mode "caffe"."""
    image = pixels(40, 50)
    mean = (103.939, 116.779, 123.68)
    steps = pipeline_of(
        (16, 16),
        channels=Channels.BGR,
        resize=Resize(antialias=antialias),
        arithmetic=Arithmetic.DIVIDE,
        mean=mean,
    )
    rgb = prepared(
        image,
        replace(pipeline_of((16, 16), resize=Resize(antialias=antialias)), scale=1.0),
    )
    expected = rgb[:, :, ::-1] - np.array(mean, np.float32)
    np.testing.assert_array_equal(prepared(image, replace(steps, scale=1.0)), expected)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans())
def test_a_letterbox_shows_all_of_the_image_and_fills_the_rest(
    tall: int, wide: int, height: int, width: int, antialias: bool
) -> None:
    """`LetterBox` of ultralytics, with Pillow's or TensorFlow's resize."""
    image = pixels(tall, wide)
    resize = Resize(ResizeMode.LETTERBOX, None, antialias=antialias, fill=(114, 7, 0))
    result = prepared(image, replace(pipeline_of((height, width), resize=resize), scale=1.0))
    ratio = min(height / tall, width / wide)
    size = max(1, round(tall * ratio)), max(1, round(wide * ratio))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    inside = np.zeros((height, width), bool)
    inside[top : top + size[0], left : left + size[1]] = True
    assert (result[~inside] == (114, 7, 0)).all()
    plain = pipeline_of(size, resize=Resize(antialias=antialias))
    expected = prepared(image, replace(plain, scale=1.0))
    np.testing.assert_array_equal(result[inside].reshape(*size, 3), expected)


def slow_crop(image: Any, height: int, width: int) -> Any:
    """`center_crop` of transformers.image_transforms, for the channels last."""
    tall, wide = image.shape[:2]
    top, left = (tall - height) // 2, (wide - width) // 2
    new_tall, new_wide = max(height, tall), max(width, wide)
    padded = np.zeros((new_tall, new_wide, 3), image.dtype)
    down, right = math.ceil((new_tall - tall) / 2), math.ceil((new_wide - wide) / 2)
    padded[down : down + tall, right : right + wide] = image
    top, left = top + down, left + right
    return padded[max(0, top) : top + height, max(0, left) : left + width]


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 130), SIDES, SIDES)
def test_transformers_slow_processor(
    tall: int, wide: int, edge: int, height: int, width: int
) -> None:
    """`resize`, `center_crop`, `rescale` in float64, `normalize`."""
    image = pixels(tall, wide)
    resize = Resize(ResizeMode.SHORTEST_EDGE, (edge, edge), Interpolation.BICUBIC, antialias=True)
    pipeline = pipeline_of(
        (height, width),
        resize=resize,
        crop_offset=CropOffset.FLOOR_PAD_MORE,
        arithmetic=Arithmetic.MULTIPLY_DOUBLE,
        mean=MEAN,
        std=STD,
    )
    shrunk = torchvision_resized(Image.fromarray(image), edge, Image.Resampling.BICUBIC)
    cut = slow_crop(np.asarray(shrunk), height, width)
    rescaled = (cut.astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (rescaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    np.testing.assert_array_equal(prepared(image, pipeline), expected)


ALL = np.repeat(np.arange(256, dtype=np.float32)[:, np.newaxis], 3, axis=1)
MEANS, STDS = np.array(MEAN, np.float32), np.array(STD, np.float32)


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        (Arithmetic.MULTIPLY, (ALL * np.float32(1 / 255) - MEANS) / STDS),
        (Arithmetic.DIVIDE, (ALL / np.float32(255) - MEANS) / STDS),
        (
            Arithmetic.MULTIPLY_DOUBLE,
            ((ALL.astype(np.float64) / 255).astype(np.float32) - MEANS) / STDS,
        ),
        # `_fuse_mean_std_and_rescale_factor` of the fast image processors.
        (
            Arithmetic.FUSED,
            (ALL - MEANS * np.float32(255)) / (STDS * np.float32(255)),
        ),
    ],
)
def test_the_order_of_the_arithmetic(arithmetic: Arithmetic, expected: Any) -> None:
    pipeline = pipeline_of((1, 1), arithmetic=arithmetic, mean=MEAN, std=STD)
    found = table(pipeline)
    assert found.dtype == np.float32
    if arithmetic is Arithmetic.MULTIPLY_DOUBLE:  # x * (1 / 255) is not always x / 255
        np.testing.assert_array_almost_equal_nulp(found, expected, nulp=1)
    else:
        np.testing.assert_array_equal(found, expected)


def test_the_orders_differ_in_their_last_bits_and_in_nothing_else() -> None:
    """Otherwise there would be no need for them in the manifest."""
    tables = [
        table(pipeline_of((1, 1), arithmetic=arithmetic, mean=MEAN, std=STD))
        for arithmetic in Arithmetic
    ]
    for other in tables[1:]:
        assert (other != tables[0]).any()
        np.testing.assert_allclose(other, tables[0], atol=2e-6)


@pytest.mark.parametrize("arithmetic", Arithmetic)
def test_whole_pixels_have_the_same_numbers_in_the_table_and_as_floats(
    arithmetic: Arithmetic,
) -> None:
    pipeline = pipeline_of((1, 1), arithmetic=arithmetic, mean=MEAN, std=STD)
    np.testing.assert_array_equal(normalized(ALL.copy(), pipeline), table(pipeline))


def test_an_image_that_would_be_enlarged_without_bound_is_refused() -> None:
    resize = Resize(ResizeMode.SHORTEST_EDGE, (256, 256))
    pipeline = pipeline_of((224, 224), resize=resize)
    with pytest.raises(Refused) as refused:
        prepared(np.zeros((1, 65_000, 3), np.uint8), pipeline)
    assert refused.value.text == (
        "too large to resize (65000x1 becomes 16640000x256, at most 100000000 pixels)"
    )


def test_the_deadline_ends_the_resize_of_a_photo() -> None:
    pipeline = pipeline_of((224, 224), resize=Resize(antialias=True))
    into = np.zeros((224, 224, 3), np.float32)
    with pytest.raises(DeadlineExceeded):
        prepare(pixels(50, 50), pipeline, Deadline.after(1, since=time.monotonic() - 2), into)
