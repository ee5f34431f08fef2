"""The options about pixels: their spelling, and what a wrong one is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.contract import contract_lines_from_json
from mlserve.cli.pixel_arguments import (
    parse_fill,
    parse_mean,
    parse_resize,
    parse_std,
    require_fraction,
)
from mlserve.errors import ExitCode, UsageError
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.preprocessing import (
    Arithmetic,
    Channels,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_mean, "0.485,0.456,0.406", (0.485, 0.456, 0.406)),
        (parse_mean, "-0.5", (-0.5,)),
        (parse_std, "0.229, 0.224, 0.225", (0.229, 0.224, 0.225)),
        (parse_fill, "114", (114,)),
        (parse_resize, "direct", (ResizeMode.DIRECT, None)),
        (parse_resize, "direct:292x256", (ResizeMode.DIRECT, (256, 292))),
        (parse_resize, "shortest-edge:256", (ResizeMode.SHORTEST_EDGE, (256, 256))),
        (parse_resize, "letterbox:640", (ResizeMode.LETTERBOX, (640, 640))),
    ],
)
def test_how_they_are_read(parse: Callable[[str], Any], text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "given", "message"),
    [
        (parse_mean, "a,b,c", "--mean 'a,b,c' is not a list of numbers: could not convert"),
        (parse_mean, "0.5,,0.5", "--mean '0.5,,0.5' is not a list of numbers"),
        (parse_mean, "nan", "--mean 'nan' is not a list of numbers: 'nan' is not a finite"),
        (parse_mean, "1e9", "--mean '1e9' is not a list of numbers: '1e9' is over 1000000"),
        (parse_std, "0.2,0,0.2", "--std 0.2,0,0.2 divides by 0, and a standard deviation is"),
        (parse_std, "1e-50", "--std 1e-50 divides by 1e-50, which is 0 as a float32"),
        (parse_std, "-1", "--std -1 divides by -1"),
        (parse_fill, "256", "--fill '256' is not a list of numbers: '256' is not in 0..255"),
        (parse_fill, "1.5", "--fill '1.5' is not a list of numbers"),
        (parse_resize, "squash", "--resize 'squash' is not a way to resize"),
        (parse_resize, "direct:", "--resize 'direct:' has no size"),
        (parse_resize, "direct:0", "--resize 'direct:0' has no size"),
        (parse_resize, "direct:9x99999", "--resize 'direct:9x99999' has no size"),
        (parse_resize, "shortest-edge:9x9", "gives two sides, and the shortest edge is one"),
        (require_fraction, -0.5, "--crop -0.5 is not a part of the image"),
        (require_fraction, 1.01, "--crop 1.01 is not a part of the image"),
        (require_fraction, float("nan"), "--crop nan is not a part of the image"),
    ],
)
def test_a_wrong_value_is_named(parse: Callable[[Any], Any], given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        parse(given)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--std", "0"], "--std 0 divides by 0"),
        (["--crop", "-1"], "--crop -1 is not a part of the image"),
        (["--crop", "0.5", "--resize", "direct:9"], "--crop 0.5 and the size in --resize"),
        (["--fill", "0"], "--fill 0 has no effect"),
        (["--mean", "-1,-1,-1"], "the backend echo cannot divide pixels, or use mean and std"),
        (["--antialias"], "the backend echo cannot resize with antialiasing"),
    ],
)
def test_the_command_refuses_before_it_opens_the_model(options: list[str], message: str) -> None:
    arguments = ["export", "--backend", "echo", "--model", "echo", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr


def test_what_is_done_to_the_pixels_is_printed() -> None:
    steps = Preprocessing(
        channels=Channels.BGR,
        resize=Resize(ResizeMode.SHORTEST_EDGE, (256, 256), Interpolation.BICUBIC, antialias=True),
        arithmetic=Arithmetic.DIVIDE,
        mean=(0.485, 0.456, 0.406),
        std=(0.5, 0.5, 0.5),
    )
    pipeline = ImagePipeline(
        224, 224, 1 / 255, 0.0, Activation.IDENTITY, 3, preprocessing=steps
    ).to_json()
    facts = {
        "resize": {"how": "given"},
        "crop": {"how": "given"},
        "antialias": {"how": "assumed"},
        "mean": {"how": "given", "why": "preprocessor_config.json"},
    }
    assert contract_lines_from_json({"pipeline": pipeline, "facts": facts}) == [
        "input    JPEG or PNG -> 224x224 BGR",
        "channels BGR",
        "resize   the shorter side to 256; given",
        "crop     the centre, 224x224; given",
        "filter   bicubic",
        "         with antialiasing; assumed (give --antialias to be sure)",
        "scale    pixels 0 and 255 become 0 and 1",
        "mean     0.485, 0.456, 0.406 is subtracted; given: preprocessor_config.json",
        "std      0.5 is divided by",
        "output   3 classes, the model's outputs are taken as scores",
    ]
