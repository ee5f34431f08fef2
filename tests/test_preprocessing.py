"""The steps before the model as data: sizes, places, and what a manifest may say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlserve.pipeline import Activation, Exif, Feature, ImagePipeline
from mlserve.preprocessing import (
    VERSION_1,
    Arithmetic,
    Channels,
    CropOffset,
    Geometry,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
    Span,
)

PLAIN = ImagePipeline(224, 224, 1 / 255, 0.0, Activation.SOFTMAX, 3)
OF_TORCHVISION = Preprocessing(
    resize=Resize(ResizeMode.SHORTEST_EDGE, (256, 256), Interpolation.BILINEAR, antialias=True),
    arithmetic=Arithmetic.DIVIDE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def of(**resize: Any) -> Preprocessing:
    return Preprocessing(resize=Resize(**resize))


@pytest.mark.parametrize(
    ("steps", "image", "expected"),
    [
        (VERSION_1, (500, 333), Geometry(224, 224, Span(0, 224, 0), Span(0, 224, 0))),
        (OF_TORCHVISION, (500, 333), Geometry(384, 256, Span(80, 224, 0), Span(16, 224, 0))),
        # int(256 * 335 / 254) is 337: the rest of 113 is halved to 56.5, which rounds to even.
        (OF_TORCHVISION, (254, 335), Geometry(256, 337, Span(16, 224, 0), Span(56, 224, 0))),
        (
            replace(OF_TORCHVISION, crop_offset=CropOffset.FLOOR),
            (254, 339),
            Geometry(256, 341, Span(16, 224, 0), Span(58, 224, 0)),
        ),
        (
            of(size=(221, 221)),
            (9, 9),
            Geometry(221, 221, Span(0, 221, 1), Span(0, 221, 1)),
        ),
        (
            replace(of(size=(221, 221)), crop_offset=CropOffset.FLOOR_PAD_MORE),
            (9, 9),
            Geometry(221, 221, Span(0, 221, 2), Span(0, 221, 2)),
        ),
        (
            of(mode=ResizeMode.LETTERBOX),
            (500, 333),
            Geometry(224, 149, Span(0, 224, 0), Span(0, 149, 37)),
        ),
        (
            of(mode=ResizeMode.LETTERBOX),
            (1, 10_000),
            Geometry(1, 224, Span(0, 1, 111), Span(0, 224, 0)),
        ),
    ],
)
def test_where_an_image_lies(
    steps: Preprocessing, image: tuple[int, int], expected: Geometry
) -> None:
    assert steps.geometry(image, (224, 224)) == expected


def test_an_old_pipeline_is_written_as_ever() -> None:
    """Its bytes are those of an mlserve that knew no other: keys, order and values."""
    text = json.dumps(replace(PLAIN, exif=Exif.APPLY).to_json())
    assert text == (
        '{"height": 224, "width": 224, "scale": 0.00392156862745098, "offset": 0.0, '
        '"activation": "softmax", "classes": 3, "class_offset": 0, "top_k": 5, '
        '"max_pixels": 100000000, "jpeg_dct": "INTEGER_ACCURATE", '
        '"resize": "bilinear_half_pixel_no_antialias", "is_background_given": false, '
        '"exif": "apply", "max_side": 65535, "max_scans": 50, "max_decode_bytes": 671088640, '
        '"version": 2}'
    )
    assert PLAIN.to_json()["version"] == 1


@pytest.mark.parametrize(
    "steps",
    [
        OF_TORCHVISION,
        Preprocessing(Channels.GREY, depth=1, mean=(0.5,), std=(0.5,)),
        of(mode=ResizeMode.LETTERBOX, size=(640, 480), fill=(114, 114, 114)),
        replace(OF_TORCHVISION, channels=Channels.BGR, arithmetic=Arithmetic.FUSED),
    ],
)
def test_version_3_is_read_as_it_was_written(steps: Preprocessing) -> None:
    pipeline = replace(PLAIN, preprocessing=steps)
    data = json.loads(json.dumps(pipeline.to_json()))
    assert data["version"] == 3
    assert ImagePipeline.from_json(data) == pipeline
    with pytest.raises((KeyError, ValueError)):
        ImagePipeline.from_json({**data, "version": 1})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"channels": "cmyk"}, "cmyk"),
        ({"depth": 1}, "depth is 1"),
        ({"depth": True}, "depth is True"),
        ({"mean": [0.5, 0.5]}, "mean is"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean is"),
        ({"mean": [10**400] * 3}, "mean is"),
        ({"std": [1, 1, 0]}, "std is"),
        ({"std": [1, 1, 1e-50]}, "std is"),  # 0 as a float32
        ({"std": [1, 1, float("nan")]}, "std is"),
        ({"std": [1, 1, float("inf")]}, "std is"),
        ({"arithmetic": "fused", "std": []}, "scale without mean and std is"),
        ({"crop_offset": "left"}, "left"),
        ({"resize": {"mode": "direct", "size": [0, 8]}}, "size is"),
        ({"resize": {"mode": "direct", "size": [8, 8, 8]}}, "size is"),
        ({"resize": {"mode": "direct", "size": [8, 2**17]}}, "size is"),
        ({"resize": {"mode": "shortest-edge", "size": [8, 9]}}, "shortest edge is"),
        ({"resize": {"mode": "letterbox", "size": None, "fill": [256, 0, 0]}}, "fill is"),
        ({"resize": {"mode": "letterbox", "size": None, "fill": [0]}}, "fill is"),
        ({"resize": {"mode": "direct", "size": None, "antialias": "no"}}, "antialias is"),
    ],
)
def test_manifests_are_not_trusted(change: dict[str, Any], named: str) -> None:
    data = replace(PLAIN, preprocessing=OF_TORCHVISION).to_json()
    steps = data["preprocessing"]
    resize = {**steps["resize"], **change.pop("resize", {})}
    with pytest.raises(ValueError, match=named):
        ImagePipeline.from_json({**data, "preprocessing": {**steps, "resize": resize, **change}})


@pytest.mark.parametrize("scale", [10**400, 1e308, 1e-320, 0, float("nan"), "1"])
def test_nor_is_a_scale_that_float32_does_not_have(scale: Any) -> None:
    data = replace(PLAIN, preprocessing=OF_TORCHVISION).to_json()
    with pytest.raises(ValueError, match="scale is"):
        ImagePipeline.from_json({**data, "scale": scale})


def test_what_a_pipeline_needs_of_a_backend() -> None:
    assert PLAIN.features == frozenset()
    assert replace(PLAIN, exif=Exif.APPLY).features == {Feature.EXIF}
    assert replace(PLAIN, preprocessing=OF_TORCHVISION).features == {
        Feature.SIZES,
        Feature.ANTIALIAS,
        Feature.NORMALIZATION,
    }
