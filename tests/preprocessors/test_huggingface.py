"""The files of Hugging Face: what they say and what is refused, by the rules of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlserve.errors import ExportError
from mlserve.image_pipeline.prepare import prepare
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.preprocessing import Arithmetic, Channels, CropOffset, Interpolation, ResizeMode
from mlserve.preprocessors.huggingface import read
from mlserve.preprocessors.preprocessor import Preprocessor
from mlserve.testing.images import noise

EDGE, DIRECT = ResizeMode.SHORTEST_EDGE, ResizeMode.DIRECT
OLD_VIT = {
    "feature_extractor_type": "ViTFeatureExtractor",
    "size": 224,
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def kind(name: str, **keys: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{name}ImageProcessor", **keys}


@pytest.mark.parametrize(
    ("data", "mode", "size", "ends_with"),
    [
        (OLD_VIT, DIRECT, (224, 224), (224, 224)),
        (kind("ViT", size={"height": 192, "width": 256}), DIRECT, (192, 256), (192, 256)),
        (kind("ViT", size=[192, 256]), DIRECT, (192, 256), (192, 256)),
        (kind("ConvNext", size=224), EDGE, (256, 256), (224, 224)),
        (kind("ConvNext", size=224, crop_pct=0.95), EDGE, (235, 235), (224, 224)),
        (kind("ConvNext", size={"shortest_edge": 384}), DIRECT, (384, 384), (384, 384)),
        (kind("EfficientNet"), DIRECT, (346, 346), (346, 346)),
        (kind("EfficientNet", do_center_crop=True), DIRECT, (346, 346), (289, 289)),
        (kind("DeiT"), DIRECT, (256, 256), (224, 224)),
        (kind("MobileNetV2"), EDGE, (256, 256), (224, 224)),
        (kind("Levit"), EDGE, (256, 256), (224, 224)),
        (kind("PoolFormer"), EDGE, (248, 248), (224, 224)),
        (kind("CLIP", size=336, crop_size=336), EDGE, (336, 336), (336, 336)),
        (kind("ViT", size={"shortest_edge": 256}, do_center_crop=True, crop_size=224), EDGE,
            (256, 256), (224, 224)),
    ],
)  # fmt: skip
def test_sizes(
    data: dict[str, Any],
    mode: ResizeMode,
    size: tuple[int, int],
    ends_with: tuple[int, int],
) -> None:
    pixels = read(data, "f").pixels
    assert (pixels.mode, pixels.size, pixels.input) == (mode, size, ends_with)


@pytest.mark.parametrize(
    ("data", "scale", "mean", "std", "arithmetic"),
    [
        (kind("ViT"), (0, 1), (0.5,) * 3, (0.5,) * 3, Arithmetic.MULTIPLY_DOUBLE),
        (kind("ViT", do_normalize=False), (0, 1), (), (), Arithmetic.MULTIPLY_DOUBLE),
        (kind("ViT", do_rescale=False), (0, 255), (0.5,) * 3, (0.5,) * 3, Arithmetic.DIVIDE),
        (kind("ViT", image_mean=0.25), (0, 1), (0.25,), (0.5,) * 3, Arithmetic.MULTIPLY_DOUBLE),
        (kind("EfficientNet", include_top=False, rescale_offset=True, rescale_factor=1 / 127.5),
            (-1, 1), (0.5,) * 3, (0.5,) * 3, Arithmetic.MULTIPLY_DOUBLE),
        (kind("EfficientNet"), (0, 1), (0.5,) * 3, (0.25,) * 3, Arithmetic.MULTIPLY_DOUBLE),
        ({"image_processor_type": "ViTImageProcessorFast"}, (0, 1), (0.5,) * 3, (0.5,) * 3,
            Arithmetic.FUSED),
        ({"image_processor_type": "ViTImageProcessorFast", "do_normalize": False}, (0, 1), (), (),
            Arithmetic.MULTIPLY),
    ],
)  # fmt: skip
def test_numbers(
    data: dict[str, Any],
    scale: tuple[float, float],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    arithmetic: Arithmetic,
) -> None:
    found = read(data, "f")
    assert found.scale == pytest.approx(scale)
    assert (found.pixels.mean, found.pixels.std) == (mean, std)
    assert found.pixels.arithmetic is arithmetic
    assert pipeline(found).require_sane() is None


def test_the_rest() -> None:
    pixels = read(kind("MobileViT"), "f.json").pixels
    assert pixels.channels is Channels.BGR
    assert (pixels.mean, pixels.std) == ((), ())
    assert (pixels.interpolation, pixels.antialias) == (Interpolation.BICUBIC, True)
    assert pixels.crop_offset is CropOffset.FLOOR_PAD_MORE
    assert set(pixels.origins.values()) == {"f.json"}
    assert {"mode", "scale", "antialias"} <= set(pixels.origins)
    fast = read({"image_processor_type": "BitImageProcessorFast", "resample": 0}, "f").pixels
    assert (fast.channels, fast.crop_offset) == (Channels.RGB, CropOffset.FLOOR)
    assert (fast.interpolation, fast.antialias) == (Interpolation.NEAREST, False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "has no image_processor_type"),
        (kind("Detr"), "the image processor DetrImageProcessor, whose rules"),
        (kind("ViT", do_pad=True), "do_pad = True, and mlserve does not know"),
        (kind("ViT", crop_pct=0.9), "crop_pct = 0.9, and mlserve does not know"),
        (kind("ViT", size_divisor=32, blur=1), "blur = 1, size_divisor = 32, and mlserve"),
        (kind("ViT", resample=1), "resample in f is 1: lanczos, which mlserve does not have"),
        (kind("ViT", resample=4), "box, which mlserve does not have"),
        (kind("ViT", resample=5), "hamming, which mlserve does not have"),
        (kind("ViT", resample=9), "resample in f is 9: not a known interpolation"),
        (kind("ViT", do_resize=False), "do_resize in f is False: images keep their size"),
        (kind("ViT", do_resize="no"), "do_resize in f is 'no': not true or false"),
        (kind("ViT", size={"shortest_edge": 224}), "the ratio is kept and nothing is cut"),
        (kind("ViT", size={"longest_edge": 224}), "with a longest edge"),
        (kind("ViT", size={"shortest_edge": 9, "longest_edge": 99}), "with a longest edge"),
        (kind("ViT", size={"height": 224}), "size in f is .*: neither a number nor"),
        (kind("ViT", size=-1), "size in f is -1: not a size in pixels"),
        (kind("ViT", size="big"), "size in f is 'big': neither"),
        (kind("CLIP", crop_size={"shortest_edge": 9}), "a crop needs a height and a width"),
        (kind("ConvNext", size={"height": 9, "width": 9}), "this image processor needs"),
        (kind("ConvNext", size=224, crop_pct=0), "crop_pct in f is 0: not above 0"),
        (kind("ViT", image_mean=[0.5, 0.5]), "image_mean in f is .*: not a number, or 3 of them"),
        (kind("ViT", image_std=[0.5, 0, 0.5]), "image_std in f is .*: not above 0"),
        (kind("ViT", image_mean=[float("nan")] * 3), "image_mean in f is"),
        (kind("ViT", rescale_factor="1/255"), "rescale_factor in f is '1/255': not a number"),
        (kind("ViT", rescale_factor=0), "rescale_factor in f is 0: not above 0"),
        (kind("MobileViT", do_normalize=True), "do_normalize in f is True: this image processor"),
    ],
)
def test_what_mlserve_cannot_do_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as refused:
        read(data, "f")
    assert refused.value.hint


def test_what_does_nothing_is_accepted() -> None:
    idle = {"do_pad": False, "pad_size": None, "do_convert_rgb": True, "do_thumbnail": False}
    assert read({**OLD_VIT, **idle}, "f").pixels == read(OLD_VIT, "f").pixels


def pipeline(found: Preprocessor) -> ImagePipeline:
    height, width = found.pixels.input or (0, 0)
    low, high = found.scale
    return ImagePipeline(
        height=height,
        width=width,
        scale=(high - low) / 255,
        offset=low,
        activation=Activation.IDENTITY,
        classes=3,
        preprocessing=found.pixels.preprocessing((height, width), 3),
    )


@pytest.mark.parametrize("name", ["ConvNextImageProcessor", "ConvNextImageProcessorFast"])
def test_the_pixels_are_those_of_the_image_processor(name: str) -> None:
    """Its steps, written down again with Pillow and numpy; benchmarks/preprocessing.py runs it."""
    data = {"image_processor_type": name, "size": 28, "image_mean": MEAN, "image_std": STD}
    found = read(data, "f")
    image = noise(75, 41)
    middle = image.resize((58, 41), Image.Resampling.BICUBIC)
    small = np.asarray(middle.resize((58, 32), Image.Resampling.BICUBIC))
    cut = small[2:30, 15:43]
    if name.endswith("Fast"):
        mean, std = (np.array(numbers, np.float32) * np.float32(255) for numbers in (MEAN, STD))
        expected = (cut.astype(np.float32) - mean) / std
    else:
        scaled = (cut.astype(np.float64) * (1 / 255)).astype(np.float32)
        expected = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    into = np.empty((28, 28, 3), np.float32)
    prepare(np.asarray(image), pipeline(found), None, into)
    np.testing.assert_array_equal(into, expected)
