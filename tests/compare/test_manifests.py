"""What two manifests say differently, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlserve.compare.manifests import Described, said_differently
from mlserve.pipeline import Activation, Exif, ImagePipeline
from mlserve.precision import Precision
from mlserve.preprocessing import (
    Arithmetic,
    Channels,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
)
from tests.harness.echo import manifest, tensors_manifest

PIPELINE = ImagePipeline(224, 224, 1 / 255, 0.0, Activation.SOFTMAX, classes=1000)
SIGNED = {"scale": 2 / 255, "offset": -1.0}
HALF = (0.5, 0.5, 0.5)


def _with(**changes: Any) -> Described:
    return Described("B", replace(manifest(), pipeline=replace(PIPELINE, **changes)))


def _steps(**changes: Any) -> dict[str, Any]:
    return {"preprocessing": Preprocessing(**changes)}


@pytest.mark.parametrize(
    ("about", "changes", "said"),
    [
        ("resized", SIGNED, "A scales to 0..1, B to -1..1"),
        ("resized", {"scale": 1.0}, "A scales to 0..1, B to 0..255"),
        (
            "resized",
            _steps(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            (
                "A scales to 0..1, B to 0..1 less the mean 0.485/0.456/0.406, divided by "
                "0.229/0.224/0.225"
            ),
        ),
        ("resized", _steps(mean=HALF), "A scales to 0..1, B to 0..1 less the mean 0.5"),
        (
            "resized",
            _steps(resize=Resize(ResizeMode.SHORTEST_EDGE, (256, 256))),
            "A resizes straight to 224x224, B the shorter side to 256",
        ),
        (
            "resized",
            _steps(resize=Resize(ResizeMode.LETTERBOX, fill=(114, 114, 114))),
            "A resizes straight to 224x224, B into 224x224, the rest filled with 114",
        ),
        (
            "resized",
            _steps(resize=Resize(antialias=True)),
            "A interpolates bilinear without antialiasing, B bilinear with antialiasing",
        ),
        (
            "resized",
            _steps(resize=Resize(interpolation=Interpolation.NEAREST)),
            "A interpolates bilinear without antialiasing, B nearest",
        ),
        ("resized", _steps(channels=Channels.BGR), "A takes the colours rgb, B bgr"),
        ("decoded", {"exif": Exif.APPLY}, "A ignores EXIF, B applies the EXIF orientation"),
        ("scores", {"activation": Activation.IDENTITY}, "A makes scores by softmax, B identity"),
        ("labels", {"class_offset": 1}, "A has a first class without a label: no, B yes"),
    ],
)
def test_a_difference_is_said_in_words(about: str, changes: dict[str, Any], said: str) -> None:
    one = Described("A", replace(manifest(), pipeline=PIPELINE))

    assert said_differently(one, _with(**changes), about) == [said]
    for other in {"decoded", "resized", "scores", "labels"} - {about}:
        assert said_differently(one, _with(**changes), other) == []


def test_another_size_is_said_with_what_follows_from_it() -> None:
    one = Described("A", replace(manifest(), pipeline=PIPELINE))

    assert said_differently(one, _with(height=299, width=299), "resized") == [
        "A resizes straight to 224x224, B straight to 299x299",
        "A takes 224x224 pixels, B 299x299 pixels",
    ]


def test_two_ways_to_the_same_numbers_are_no_difference() -> None:
    one = Described("A", replace(manifest(), pipeline=replace(PIPELINE, **SIGNED)))
    other = _with(**_steps(mean=HALF, std=HALF, arithmetic=Arithmetic.DIVIDE))

    assert said_differently(one, other, "resized") == [
        "A computes pixels by the rule multiply, B divide"
    ]


def test_weights_and_precision_are_said_of_tensors_too() -> None:
    digests = [f"sha256:{letter * 64}" for letter in "ab"]
    one, other = (
        Described(name, replace(tensors_manifest(), weights_digest=digest, precision=precision))
        for name, digest, precision in zip("AB", digests, Precision, strict=False)
    )

    assert said_differently(one, other, "scores") == [
        "A has the weights sha256:aaaaaaaaaaaa, B sha256:bbbbbbbbbbbb",
        "A computes in fp32, B bf16",
    ]
    assert said_differently(one, one, "scores") == []
    assert said_differently(one, other, "resized") == []
