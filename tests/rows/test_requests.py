"""`--json`: requests in the form of TensorFlow Serving and of Open Inference."""

from __future__ import annotations

from typing import Any

import pytest

from mlserve.errors import InvalidInput, UsageError
from mlserve.rows.kinds import is_request
from mlserve.rows.requests import parse_request
from mlserve.tensors import DType, Signature, TensorSpec

ONE = Signature("serving_default", (TensorSpec("x", DType.FLOAT32, (None, 2)),), ())
TWO = Signature(
    "serving_default",
    (TensorSpec("a", DType.FLOAT32, (None,)), TensorSpec("b", DType.BYTES, (None,))),
    (),
)


_OF_OUTPUT = "the parameters of the output 'y' in request.json has "


def _inputs(data: Any, signature: Signature) -> Any:
    return parse_request("request.json", data).inputs(signature)


def _tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **more}


@pytest.mark.parametrize(
    ("data", "signature", "inputs"),
    [
        ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1.0, 2.0], [3.0, 4.0]]}),
        ({"instances": [{"x": [1, 2]}]}, ONE, {"x": [[1.0, 2.0]]}),
        ({"inputs": [[1, 2]]}, ONE, {"x": [[1.0, 2.0]]}),
        ({"inputs": {"x": [[1, 2]]}}, ONE, {"x": [[1.0, 2.0]]}),
        (
            {"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": {"b64": "aGk="}}]},
            TWO,
            {"a": [1.0, 2.0], "b": ["x", b"hi"]},
        ),
        ({"inputs": [_tensor()]}, ONE, {"x": [[1.0, 2.0]]}),
        ({"inputs": [_tensor(data=[[1, 2]])], "id": "7"}, ONE, {"x": [[1.0, 2.0]]}),
        ({"inputs": [_tensor(name="y")]}, ONE, {"y": [1, 2]}),
    ],
)
def test_inputs(data: Any, signature: Signature, inputs: Any) -> None:
    assert is_request(data)
    assert _inputs(data, signature) == inputs


def test_signature_and_outputs() -> None:
    served = parse_request("r", {"signature_name": "s", "instances": [1]})
    open_form = {
        "inputs": [_tensor()],
        "outputs": [{"name": "y"}, {"name": "z"}],
        "parameters": {"signature": "s"},
    }

    assert (served.signature, served.outputs) == ("s", None)
    found = parse_request("r", open_form)
    assert (found.signature, found.outputs) == ("s", ("y", "z"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "request.json is not a request"),
        ({"rows": []}, "request.json is not a request"),
        ({"instances": [1], "inputs": [1]}, "request.json has both instances and inputs"),
        (
            {"instances": [1], "signature": "s"},
            "the request in request.json has the key 'signature', which mlserve does not send",
        ),
        ({"instances": []}, "instances in request.json is not a list of rows"),
        (
            {"instances": [{"x": 1}, {"y": 1}]},
            "instances[1] in request.json has the keys y, and instances[0] has x",
        ),
        ({"instances": [["1", 2]]}, "input 'x': '1' is a string, not a number"),
        (
            {"inputs": [_tensor(shape=[2, 2])]},
            "the input 'x' in request.json has 2 values, and its shape [2, 2] has 4",
        ),
        (
            {"inputs": [_tensor(datatype="INT64")]},
            "the input 'x' in request.json is INT64; the model takes x: float32[?,2]",
        ),
        (
            {"inputs": [_tensor(shape=[-1, 2])]},
            "the shape of 'x' in request.json is not a list of sizes: [-1, 2]",
        ),
        (
            {"inputs": [_tensor(shape=[0, 2], data=[])]},
            "the input 'x' in request.json has no values: [] does not show all of its shape [0, 2]",
        ),
        (
            {"inputs": [_tensor(parameters={"content_type": "np"})]},
            "the input 'x' in request.json has the key 'parameters', which mlserve does not send",
        ),
        ({"inputs": [_tensor()], "outputs": [{}]}, "an output in request.json has no name"),
        (
            {"inputs": [_tensor()], "outputs": ["y"]},
            "outputs in request.json is not a list of objects",
        ),
        (
            {"inputs": [_tensor()], "outputs": {"name": "y"}},
            "outputs in request.json is not a list of objects",
        ),
        (
            {"inputs": [_tensor()], "outputs": [{"name": "y"}, {"name": "y"}]},
            "the output 'y' is in request.json twice",
        ),
        (
            {
                "inputs": [_tensor()],
                "outputs": [{"name": "y", "parameters": {"classification": 3}}],
            },
            _OF_OUTPUT + "the key 'classification', which mlserve does not send",
        ),
        (
            {"inputs": [_tensor(), _tensor(data=[3, 4])]},
            "the input 'x' is in request.json twice",
        ),
        ({"inputs": [_tensor(name=["x"])]}, "an input in request.json has no name"),
        (
            {"inputs": [_tensor()], "parameters": ["signature"]},
            "the request's parameters in request.json: ['signature'] is not an object",
        ),
    ],
)
def test_what_is_wrong_is_named(data: Any, message: str) -> None:
    with pytest.raises(UsageError) as wrong:
        _inputs(data, ONE)

    assert wrong.value.message == message
    assert wrong.value.hint


def test_a_model_with_several_inputs_needs_names() -> None:
    with pytest.raises(InvalidInput, match="has several: a, b"):
        _inputs({"instances": [1, 2]}, TWO)
