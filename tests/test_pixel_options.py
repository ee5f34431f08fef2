"""What the user says about pixels: what follows from it, what contradicts, and how it is known."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.classifiers import pixel_facts
from mlserve.contract import RAW, SYMMETRIC, UNIT, Evidence, Scale, settle
from mlserve.errors import ExportError, MlserveError, UsageError
from mlserve.pipeline import Activation
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import (
    VERSION_1,
    Arithmetic,
    Channels,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
)
from mlserve.sources import Fact, How, ModelRequest

EDGE = ResizeMode.SHORTEST_EDGE
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"crop": 0.875}, Resize(EDGE, (256, 256))),
        ({"crop": 0.95}, Resize(EDGE, (235, 235))),
        ({"crop": 0.875, "mode": ResizeMode.DIRECT}, Resize(ResizeMode.DIRECT, (256, 256))),
        ({"mode": EDGE, "size": (256, 256)}, Resize(EDGE, (256, 256))),
        ({"mode": EDGE}, Resize(EDGE)),
        ({"mode": EDGE, "size": (224, 224)}, Resize(EDGE)),
        (
            {"mode": ResizeMode.LETTERBOX, "fill": (114,)},
            Resize(ResizeMode.LETTERBOX, fill=(114, 114, 114)),
        ),
        (
            {"interpolation": Interpolation.BICUBIC, "antialias": True},
            Resize(interpolation=Interpolation.BICUBIC, antialias=True),
        ),
    ],
)
def test_how_an_image_is_resized(options: dict[str, Any], expected: Resize) -> None:
    steps = PixelOptions(**options).preprocessing((224, 224), 3)
    assert steps == Preprocessing(resize=expected, arithmetic=Arithmetic.DIVIDE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": ResizeMode.DIRECT},
        {"mode": ResizeMode.DIRECT, "size": (224, 224)},
        {"antialias": False, "interpolation": Interpolation.BILINEAR, "channels": Channels.RGB},
    ],
)
def test_what_version_1_does_needs_no_other_version(options: dict[str, Any]) -> None:
    assert PixelOptions(**options).preprocessing((224, 224), 3) == VERSION_1


def test_one_mean_is_for_all_channels_and_only_a_grey_model_has_one() -> None:
    options = PixelOptions(mean=(0.5,), std=STD)
    assert options.preprocessing((8, 8), 3).mean == (0.5, 0.5, 0.5)
    assert options.preprocessing((8, 8), 3).arithmetic is Arithmetic.DIVIDE
    grey = PixelOptions(mean=(0.5,)).preprocessing((8, 8), 1)
    assert (grey.channels, grey.depth, grey.mean) == (Channels.GREY, 1, (0.5,))
    with pytest.raises(
        ExportError, match=r"--std .* has 3 values, and the model takes one channel"
    ):
        options.preprocessing((8, 8), 1)


@pytest.mark.parametrize(
    ("options", "size", "depth", "message"),
    [
        ({"mean": (0.5, 0.5)}, (8, 8), 3, "--mean 0.5,0.5 has 2 values, and the model takes 3"),
        ({"std": (1.0,) * 4}, (8, 8), 3, "--std 1.0,1.0,1.0,1.0 has 4 values"),
        ({"channels": Channels.BGR}, (8, 8), 1, "--channels bgr does not fit the model"),
        ({"crop": 0.875}, (8, 9), 3, "the model's input, 9x8, is not square"),
        ({"mode": EDGE}, (8, 9), 3, "the model's input, 9x8, is not square"),
        ({"crop": 0.5, "size": (9, 9), "mode": EDGE}, (8, 8), 3, "--crop 0.5 and the size"),
        ({"crop": 0.5, "mode": ResizeMode.LETTERBOX}, (8, 8), 3, "--crop 0.5 cuts an image"),
        ({"crop": 1e-3}, (8, 8), 3, "--crop 0.001 of an input of 8x8 resizes images to more than"),
        ({"crop": 5e-324}, (8, 8), 3, "--crop 4.94066e-324 of an input"),
        ({"fill": (1, 2, 3)}, (8, 8), 3, "--fill 1,2,3 has no effect"),
        (
            {"antialias": True, "interpolation": Interpolation.NEAREST},
            (8, 8),
            3,
            "--antialias has no effect on --interpolation nearest",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    options: dict[str, Any], size: tuple[int, int], depth: int, message: str
) -> None:
    with pytest.raises(MlserveError, match=message) as refused:
        checked(PixelOptions(**options), size, depth)
    assert isinstance(refused.value, UsageError | ExportError)
    assert refused.value.hint


def checked(options: PixelOptions, size: tuple[int, int], depth: int) -> Preprocessing:
    options.require_fitting()
    options.require_resizable(size)
    return options.preprocessing(size, depth)


def test_what_was_given_is_a_fact_and_so_is_what_was_assumed() -> None:
    options = PixelOptions(mean=MEAN, crop=0.875, antialias=True, origins={"mean": "config.json"})
    assert pixel_facts(options) == {
        "channels": Fact(How.ASSUMED),
        "resize": Fact(How.ASSUMED, "the usual way with --crop"),
        "interpolation": Fact(How.ASSUMED),
        "antialias": Fact(How.GIVEN),
        "crop": Fact(How.GIVEN),
        "mean": Fact(How.GIVEN, "config.json"),
    }
    assert options.options == ("--crop", "--antialias")
    assert pixel_facts(PixelOptions()) == {}


OWN = Evidence(RAW, "its own Sub, Div makes -2.12..2.64 of 0..255")


@pytest.mark.parametrize(
    ("scale", "found", "expected", "warning"),
    [
        (None, ExportError("nobody knows"), UNIT, ""),
        (SYMMETRIC, ExportError("nobody knows"), SYMMETRIC, ""),
        (None, Evidence(UNIT, "it makes no difference", How.ASSUMED), UNIT, ""),
        (None, OWN, UNIT, "normalised twice"),
        (RAW, OWN, RAW, "takes 0..255 as they are: its own Sub, Div makes"),
    ],
)
def test_mean_and_std_follow_the_scale_and_a_model_that_normalises_too_is_warned_of(
    scale: Scale | None, found: Evidence[Scale] | ExportError, expected: Scale, warning: str
) -> None:
    request = ModelRequest("m", scale=scale, pixels=PixelOptions(mean=MEAN, std=STD))
    logits = Evidence(Activation.SOFTMAX, "logits")
    contract = settle(request, 3, logits, found)
    assert contract.scale == expected
    fact = contract.facts["scale"]
    assert fact.how is How.GIVEN
    assert warning in fact.warning
    assert bool(fact.warning) == bool(warning)


@pytest.mark.parametrize(
    ("scale", "mean", "std", "warning"),
    [
        (None, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "--mean 123.675 is not between"),
        (RAW, MEAN, STD, "pixels become as large as 1"),
        (RAW, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ""),
        (RAW, (103.939, 116.779, 123.68), (), ""),
        (SYMMETRIC, (), (0.5,), ""),
    ],
)
def test_a_mean_of_pixels_in_another_range_is_warned_of(
    scale: Scale | None, mean: tuple[float, ...], std: tuple[float, ...], warning: str
) -> None:
    request = ModelRequest("m", scale=scale, pixels=PixelOptions(mean=mean, std=std))
    contract = settle(request, 3, Evidence(Activation.SOFTMAX, ""), ExportError("nobody knows"))
    fact = contract.facts["scale"]
    assert warning in fact.warning
    assert bool(fact.warning) == bool(warning)
