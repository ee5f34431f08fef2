"""What a model is served as, and which options that rules out."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.errors import ExportError, UsageError
from mlserve.kinds import (
    is_for_tensors,
    kind_fact,
    require_fitting_options,
    require_kind,
)
from mlserve.pipeline import Exif
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import ResizeMode
from mlserve.sources import (
    Classifier,
    Fact,
    How,
    Kind,
    ModelRequest,
    ModelSource,
    Progress,
    TensorModel,
)

PROBLEM = ExportError("it takes float32[?,4], not images")
TABLE = TensorModel(
    "m", None, "onnx", (), "file m", "sha256:0", facts={"kind": Fact(How.FOUND, "w")}
)


class Source(ModelSource):
    """A source of models of any kind, or of those given."""

    name = "source"
    summary = "A source."
    install_hint = "pip install source"

    def __init__(self, *kinds: Kind) -> None:
        if kinds:
            self.kinds = kinds  # type: ignore[misc]

    def accepts(self, request: ModelRequest) -> bool:
        return True

    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "problem", "expected"),
    [
        (None, None, False),
        (None, PROBLEM, True),
        (Kind.TENSORS, None, True),
        (Kind.TENSORS, PROBLEM, True),
        (Kind.IMAGE_CLASSIFIER, None, False),
    ],
)
def test_the_kind_is_the_users_or_the_models(
    kind: Kind | None, problem: ExportError | None, *, expected: bool
) -> None:
    assert is_for_tensors(ModelRequest("m", kind=kind), problem) is expected


def test_a_model_that_is_no_classifier_is_not_made_one() -> None:
    with pytest.raises(ExportError, match="not images"):
        is_for_tensors(ModelRequest("m", kind=Kind.IMAGE_CLASSIFIER), PROBLEM)


def test_how_the_kind_is_known_is_a_fact() -> None:
    assert kind_fact(ModelRequest("m", kind=Kind.TENSORS), None) == Fact(How.GIVEN)
    assert kind_fact(ModelRequest("m"), PROBLEM) == Fact(How.FOUND, PROBLEM.message)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"labels": ("a",)}, "--labels"),
        ({"has_background": True}, "--background"),
        ({"input_size": 8}, "--input-size"),
        ({"scale": (0.0, 1.0)}, "--scale"),
        ({"layout": "nchw"}, "--layout"),
        ({"activation": "none"}, "--activation"),
        ({"top_k": 5}, "--top-k"),
        ({"exif": Exif.APPLY}, "--exif"),
        ({"pixels": PixelOptions(mean=(0.5,))}, "--mean"),
        ({"pixels": PixelOptions(mode=ResizeMode.LETTERBOX)}, "--resize"),
    ],
)
def test_an_option_of_image_classifiers_is_named(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} is for image classifiers, and m is not one"):
        require_fitting_options(ModelRequest("m", **given), TABLE)
    for source, kind in ((Source(), Kind.TENSORS), (Source(Kind.TENSORS), None)):
        with pytest.raises(UsageError, match=f"^{option} is for image classifiers") as refused:
            require_kind(ModelRequest("m", kind=kind, **given), source)
        assert f"leave {option} out" in str(refused.value.hint)


def test_without_such_an_option_nothing_is_refused() -> None:
    require_fitting_options(ModelRequest("m", weights="m.onnx", seed=3), TABLE)
    for kind in (None, *Kind):
        require_kind(ModelRequest("m", kind=kind, scale=None), Source())


def test_a_source_of_one_kind_refuses_the_other() -> None:
    with pytest.raises(UsageError, match="--kind tensors: m is exported as image-classifier only"):
        require_kind(ModelRequest("m", kind=Kind.TENSORS), Source(Kind.IMAGE_CLASSIFIER))
    require_kind(ModelRequest("m", kind=Kind.IMAGE_CLASSIFIER), Source(Kind.IMAGE_CLASSIFIER))
