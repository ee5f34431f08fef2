"""NaN and infinity that a conversion answers in another way than its original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve.errors import InvalidInput
from mlserve.special_numbers import changed_specials, require_answered

INPUTS = {"x": np.ones((3, 4), np.float32), "ids": np.ones(3, np.int64)}


def _relu(inputs: Any) -> Any:
    return {"y": np.maximum(inputs["x"].sum(1), 0)}  # NaN for NaN


def _other_relu(inputs: Any) -> Any:
    return {"y": np.fmax(inputs["x"].sum(1), 0)}  # 0 for NaN


def _refusing(inputs: Any) -> Any:
    if not np.isfinite(inputs["x"]).all():
        raise InvalidInput("a number is not finite")
    return _relu(inputs)


def _of_both_signs(relu: Any) -> Any:
    signs = np.array([1, -1, 1, -1], np.float32)
    return lambda inputs: relu({"x": inputs["x"] * signs})


@pytest.mark.parametrize(
    ("original", "converted", "changed"),
    [
        (_relu, _relu, ()),
        (_relu, _other_relu, ("nan",)),
        (_refusing, _relu, ("nan", "inf")),
        (_relu, _refusing, ()),
        (_of_both_signs(_relu), _of_both_signs(_other_relu), ("nan", "inf")),
    ],
)
def test_what_a_conversion_changes(original: Any, converted: Any, changed: tuple[str, ...]) -> None:
    assert changed_specials(INPUTS, original, converted, 1e-4) == changed


def test_a_refusal_names_the_place() -> None:
    x = np.zeros((2, 3), np.float16)
    require_answered(("nan", "inf"), {"x": x, "ids": INPUTS["ids"]}, "ONNX")
    x[1, 2] = np.nan
    require_answered(("inf",), {"x": x}, "ONNX")
    with pytest.raises(InvalidInput, match=r"'x' has nan at \[1, 2\], .* converted to ONNX"):
        require_answered(("nan", "inf"), {"x": x}, "ONNX")
