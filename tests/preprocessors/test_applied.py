"""What was given on the command line wins over a preprocessor, and the facts say so."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.classifiers import pixel_facts
from mlserve.contract import Evidence, settle
from mlserve.errors import ExportError
from mlserve.pipeline import Activation
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Arithmetic, Interpolation, Resize, ResizeMode
from mlserve.preprocessors.applied import applied
from mlserve.preprocessors.huggingface import read
from mlserve.sources import Fact, How, ModelRequest

EDGE = ResizeMode.SHORTEST_EDGE
FOUND = read({"image_processor_type": "MobileNetV2ImageProcessorFast"}, "p.json")


def request(**options: Any) -> ModelRequest:
    return applied(ModelRequest("m", pixels=PixelOptions(**options)), FOUND)


def test_everything_that_was_not_given_comes_from_the_preprocessor() -> None:
    asked = request()
    facts = pixel_facts(asked.pixels)
    for name in ("channels", "resize", "interpolation", "antialias", "mean", "std", "arithmetic"):
        assert facts[name] == Fact(How.GIVEN, "p.json")
    assert asked.scale == (0, 1)
    assert asked.open_size == (224, 224)
    assert asked.pixels.options == ()
    asked.pixels.require_fitting()
    found = settle(asked, 3, Evidence(Activation.SOFTMAX, ""), ExportError("not known"))
    assert found.facts["scale"] == Fact(How.GIVEN, "p.json")


def test_a_flag_wins_and_its_fact_says_what_it_replaces() -> None:
    pixels = request(interpolation=Interpolation.BICUBIC, mean=(0.25,)).pixels
    facts = pixel_facts(pixels)
    assert facts["interpolation"] == Fact(How.GIVEN, "instead of bilinear in p.json")
    assert facts["mean"] == Fact(How.GIVEN, "instead of 0.5,0.5,0.5 in p.json")
    assert facts["std"] == Fact(How.GIVEN, "p.json")
    steps = pixels.preprocessing((224, 224), 3)
    assert steps.mean == (0.25,) * 3
    assert steps.resize == Resize(EDGE, (256, 256), Interpolation.BICUBIC, antialias=True)
    assert pixels.options == ("--interpolation", "--mean")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"crop": 0.5}, Resize(EDGE, (448, 448), antialias=True)),
        ({"mode": ResizeMode.DIRECT}, Resize(antialias=True)),
        ({"mode": EDGE, "size": (300, 300)}, Resize(EDGE, (300, 300), antialias=True)),
        ({"interpolation": Interpolation.NEAREST},
            Resize(EDGE, (256, 256), Interpolation.NEAREST)),
    ],
)  # fmt: skip
def test_a_flag_about_sizes_replaces_all_sizes(options: dict[str, Any], expected: Resize) -> None:
    pixels = request(**options).pixels
    pixels.require_fitting()
    assert pixels.preprocessing((224, 224), 3).resize == expected


def test_another_interpolation_is_pillows_too() -> None:
    nearest = read({"image_processor_type": "ViTImageProcessor", "resample": 0}, "p.json")
    pixels = PixelOptions(interpolation=Interpolation.BILINEAR)
    asked = applied(ModelRequest("m", pixels=pixels), nearest)
    assert asked.pixels.preprocessing((224, 224), 3).resize == Resize(antialias=True)
    pixels = PixelOptions(interpolation=Interpolation.BILINEAR, antialias=False)
    asked = applied(ModelRequest("m", pixels=pixels), nearest)
    assert asked.pixels.preprocessing((224, 224), 3).resize == Resize()


def test_another_scale_takes_its_own_order_of_operations() -> None:
    asked = applied(ModelRequest("m", scale=(-1, 1)), FOUND)
    assert asked.scale == (-1, 1)
    assert asked.pixels.arithmetic is Arithmetic.DIVIDE
    found = settle(asked, 3, Evidence(Activation.SOFTMAX, ""), ExportError("not known"))
    assert found.facts["scale"] == Fact(How.GIVEN, "instead of 0..1 in p.json")


def test_a_model_of_another_size_is_refused_unless_the_user_says_how() -> None:
    with pytest.raises(ExportError, match=r"p\.json makes images of 224x224, and the model takes"):
        request().pixels.preprocessing((96, 96), 3)
    assert request(crop=0.5).pixels.preprocessing((96, 96), 3).resize.size == (192, 192)
