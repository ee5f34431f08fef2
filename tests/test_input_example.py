"""The commands that hints show: what `mlserve predict --input` takes, made of a signature."""

from __future__ import annotations

import pytest

from mlserve.errors import UsageError
from mlserve.input_example import example_inputs, predict_command
from mlserve.tensors import Signature, TensorSpec


def signature(*inputs: str, name: str = "serving_default", method: str = "predict") -> Signature:
    return Signature(name, tuple(map(TensorSpec.from_text, inputs)), (), method=method)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["x:float32[?,4]"], "--input 'x=[0.5, 0.5, 0.5, 0.5]'"),
        (["ids:int64[?,?]", "mask:bool[?,2]"], "--input 'ids=[1]' --input 'mask=[true, true]'"),
        (["text:bytes[?]"], "--input 'text=good morning'"),
        (["text:bytes[?,1]"], "--input 'text=good morning'"),
        (["pair:bytes[?,2]"], """--input 'pair=["good", "good"]'"""),
        (["image:uint8[?,?,?,3]"], "--input 'image=[[[1, 1, 1]]]'"),
        (["pixels:float32[?,96,96,3]"], "--input pixels=@pixels.npy"),
        (["x:float64[]"], "--input x=0.5"),
        (["x:float32[...]"], "--input x=0.5"),
        (["x:float32[1,2]"], "--input 'x=[[0.5, 0.5]]'"),
    ],
)
def test_each_input_has_a_value_of_its_type_and_shape(inputs: list[str], expected: str) -> None:
    assert predict_command([signature(*inputs)]) == f"mlserve predict {expected}"


def test_the_usual_signature_is_asked_without_its_name() -> None:
    other, usual = signature("a:int32[?]", name="double"), signature("b:int32[?]")
    examples = signature("inputs:bytes[?]", name="classify", method="classify")
    assert predict_command([other, examples, usual]) == "mlserve predict --input b=1"
    assert predict_command([examples, other]) == ("mlserve predict --signature double --input a=1")
    assert predict_command([signature("a:int32[?]", name="infer")]) == (
        "mlserve predict --input a=1"
    )
    assert predict_command([examples]) is None
    assert predict_command([]) is None


def test_a_text_that_the_model_knows_is_taken() -> None:
    command = predict_command([signature("city:bytes[?]", "note:bytes[?]")], {"city": "Bern"})
    assert command == "mlserve predict --input city=Bern --input 'note=good morning'"


def test_a_row_of_values_has_the_shape_of_the_signature() -> None:
    made = example_inputs(signature("x:float32[?,2]", "ids:int64[?,?]", "text:bytes[?]"))

    assert made == {"x": [[0.5, 0.5]], "ids": [[1]], "text": ["good"]}
    assert example_inputs(signature("m:bool[]", "y:float32[...]")) == {"m": True, "y": 0.5}


def test_what_is_too_large_to_make_up_is_asked_for() -> None:
    with pytest.raises(UsageError, match="'x' has 100000000 elements"):
        example_inputs(signature("x:float32[10000,10000]"))
