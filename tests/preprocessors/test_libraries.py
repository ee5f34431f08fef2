"""The data of torchvision's presets and of timm: what it says, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.errors import ExportError
from mlserve.preprocessing import Arithmetic, CropOffset, Interpolation, ResizeMode
from mlserve.preprocessors import timm, torchvision

PRESET = {
    "crop_size": [224],
    "resize_size": [232],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "categories": ["cat", "dog"],
}
CONFIG = {
    "input_size": [3, 240, 240],
    "interpolation": "bicubic",
    "crop_pct": 0.95,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def test_torchvision() -> None:
    found = torchvision.read(PRESET, "torchvision:resnet50")
    pixels = found.pixels
    assert (pixels.mode, pixels.size) == (ResizeMode.SHORTEST_EDGE, (232, 232))
    assert pixels.input == (224, 224)
    assert (pixels.interpolation, pixels.antialias) == (Interpolation.BILINEAR, True)
    assert (pixels.crop_offset, pixels.arithmetic) == (CropOffset.ROUND, Arithmetic.DIVIDE)
    assert (pixels.mean, found.scale) == ((0.485, 0.456, 0.406), (0, 1))
    assert found.labels == ("cat", "dog")
    assert found.labels_name == "the categories of torchvision:resnet50"
    assert torchvision.read({**PRESET, "categories": ()}, "t").labels is None


@pytest.mark.parametrize(
    ("more", "mode", "resized"),
    [
        ({}, ResizeMode.SHORTEST_EDGE, (252, 252)),
        ({"crop_mode": "squash"}, ResizeMode.DIRECT, (252, 252)),
        ({"crop_mode": "center", "crop_pct": 1.0}, ResizeMode.SHORTEST_EDGE, None),
        ({"crop_pct": None}, ResizeMode.SHORTEST_EDGE, (274, 274)),
    ],
)
def test_timm(more: dict[str, Any], mode: ResizeMode, resized: tuple[int, int] | None) -> None:
    pixels = timm.read({"architecture": "a", "pretrained_cfg": {**CONFIG, **more}}, "c").pixels
    steps = pixels.preprocessing((240, 240), 3)
    assert (steps.resize.mode, steps.resize.size) == (mode, resized)
    assert (steps.resize.interpolation, steps.resize.antialias) == (Interpolation.BICUBIC, True)
    assert (steps.std, steps.arithmetic) == ((0.25,) * 3, Arithmetic.DIVIDE)


def test_the_labels_of_timm() -> None:
    assert timm.read({"pretrained_cfg": CONFIG, "label_names": ["a", "b"]}, "c").labels == (
        "a",
        "b",
    )
    assert timm.read(CONFIG, "c").labels is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode in c is 'border': mlserve has center and squash"),
        ({"interpolation": "lanczos"}, "lanczos, which mlserve does not have"),
        ({"interpolation": "random"}, "random, which mlserve does not have"),
        ({"input_size": [1, 28, 28]}, r"input_size in c is \[1, 28, 28\]: not \[3, height"),
        ({"crop_pct": 1.5}, "crop_pct in c is 1.5: not above 0 and at most 1"),
        ({"mean": [0.5, 0.5]}, "mean in c is .*: not a number"),
    ],
)
def test_what_mlserve_cannot_do_is_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as refused:
        timm.read({**CONFIG, **more}, "c")
    assert refused.value.hint


def test_lanczos_of_torchvision_is_named() -> None:
    with pytest.raises(ExportError, match="interpolation in t is 'lanczos': lanczos, which"):
        torchvision.read({**PRESET, "interpolation": "lanczos"}, "t")
