"""JSON of the REST API to numpy and back: every dtype, both forms, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlserve.errors import InvalidInput
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.tensors import NUMPY
from mlserve.server.tfs import json_tensors
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType, Signature, TensorSpec

JSON_DTYPES = [d for d in DType if d not in (DType.COMPLEX64, DType.COMPLEX128)]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
X_FLOAT = TensorSpec("x", DType.FLOAT32, (None,))
ONE = Signature("one", (X_FLOAT,), (TensorSpec("y", DType.FLOAT32, (None,)),))
TWO = Signature(
    "two",
    (TensorSpec("image", DType.BYTES, (None,)), TensorSpec("threshold", DType.FLOAT32, (None,))),
    (TensorSpec("label", DType.BYTES, (None,)), TensorSpec("score", DType.FLOAT32, (None,))),
)


@st.composite
def arrays(draw: Any) -> tuple[DType, Any]:
    dtype, shape = draw(st.sampled_from(JSON_DTYPES)), draw(SHAPES)
    if dtype is DType.BYTES:
        return dtype, draw(hnp.arrays(object, shape, elements=st.binary(max_size=5)))
    if dtype is DType.BFLOAT16:
        return dtype, draw(hnp.arrays(np.uint16, shape)).view(NUMPY[dtype])
    return dtype, draw(hnp.arrays(NUMPY[dtype], shape))


@given(arrays())
def test_values_round_trip(case: tuple[DType, Any]) -> None:
    dtype, array = case
    spec = TensorSpec("x", dtype, None)
    text = json.dumps(json_tensors.from_array(spec, array))
    again = json_tensors.to_array(spec, json.loads(text))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    if dtype is DType.BYTES:
        assert again.tolist() == array.tolist()
    else:
        np.testing.assert_array_equal(again.astype(np.float64), array.astype(np.float64))


@given(
    st.sampled_from(JSON_DTYPES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    ),
)
def test_any_value_is_read_or_refused(dtype: DType, value: Any) -> None:
    try:
        array = json_tensors.to_array(TensorSpec("x", dtype, None), value)
    except InvalidInput as error:
        refusal = error.message
    else:
        refusal = "'x'"
        assert array.dtype == NUMPY[dtype]
    assert "'x'" in refusal


def read(signature: Signature, body: Any) -> dict[str, Any]:
    return {
        name: array.tolist()
        for name, array in json_tensors.read_inputs(signature, body, DEFAULT_SETTINGS).items()
    }


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [1, 2.5]},
        {"instances": [{"x": 1}, {"x": 2.5}]},
        {"inputs": [1, 2.5]},
        {"inputs": {"x": [1, 2.5]}},
    ],
)
def test_the_only_input_needs_no_name(body: Any) -> None:
    assert read(ONE, body) == {"x": [1.0, 2.5]}


@pytest.mark.parametrize(
    "body",
    [
        {
            "instances": [
                {"image": {"b64": "aGk="}, "threshold": 1},
                {"image": "yo", "threshold": 2},
            ]
        },
        {"inputs": {"image": [{"b64": "aGk"}, "yo"], "threshold": [1, 2]}},
    ],
)
def test_several_inputs_by_name(body: Any) -> None:
    assert read(TWO, body) == {"image": [b"hi", b"yo"], "threshold": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "exactly one of"),
        ({"inputs": [1], "instances": [1]}, "exactly one of"),
        ({"instances": 5}, "list of at least one"),
        ({"instances": []}, "list of at least one"),
        ({"inputs": {"y": [1]}}, "Missing named input: x in 'inputs' object"),
        ({"instances": [{"y": 1}]}, "Sent extra: {y}. Missing but required: {x}"),
        ({"instances": [{"x": 1, "y": 1}]}, "Sent extra: {y}. Missing but required: {}"),
        ({"inputs": ["1"]}, "has a string where float32 is expected"),
        ({"inputs": [True]}, "has a boolean where float32 is expected"),
        ({"inputs": [None]}, "has null where float32 is expected"),
        ({"inputs": [1, [2]]}, "both lists and values"),
        ({"inputs": [[1], [2, 3]]}, "have the lengths 1, 2 (level 2)"),
        ({"inputs": [10**400]}, "out of range of float32"),
        ({"inputs": [{"b64": "!"}]}, "has an object"),
    ],
)
def test_what_does_not_fit_is_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        json_tensors.read_inputs(ONE, body, DEFAULT_SETTINGS)
    assert message in caught.value.message


def test_several_inputs_need_names() -> None:
    with pytest.raises(InvalidInput, match="has 2 inputs: give an object of the names"):
        json_tensors.read_inputs(TWO, {"inputs": [1]}, DEFAULT_SETTINGS)


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'threshold' for 'treshold'"):
        json_tensors.read_inputs(
            TWO, {"inputs": {"image": ["a"], "treshold": [1]}}, DEFAULT_SETTINGS
        )


@pytest.mark.parametrize("item", [{"b64": "a"}, {"b64": "-_-_"}, {"b64": "aGk=", "x": 1}, {}])
def test_an_object_that_is_not_base64(item: Any) -> None:
    spec = TensorSpec("image", DType.BYTES, (None,))
    with pytest.raises(InvalidInput, match="b64"):
        json_tensors.to_array(spec, [item])


def test_base64_may_be_in_lines() -> None:
    """As `base64` and Python's `encodebytes` write it; TensorFlow Serving takes it."""
    spec, data = TensorSpec("image", DType.BYTES, (None,)), bytes(range(256)) * 1000
    for size in (1, 100, 1000, len(data)):
        lines = base64.encodebytes(data[:size]).decode()
        for text in (lines, lines.replace("\n", "\r\n"), f" {lines}".replace("=", "")):
            assert json_tensors.to_array(spec, [{"b64": text}]).tolist() == [data[:size]]


@pytest.mark.parametrize("dtype", [d for d in DType if "int" in d.label])
def test_integers_at_and_beyond_their_limits(dtype: DType) -> None:
    spec, limits = TensorSpec("x", dtype, (None,)), np.iinfo(NUMPY[dtype])
    ends = [int(limits.min), int(limits.max)]
    assert json_tensors.to_array(spec, ends).tolist() == ends
    for value in (ends[0] - 1, ends[1] + 1):
        with pytest.raises(InvalidInput, match="out of range"):
            json_tensors.to_array(spec, [value])
    with pytest.raises(InvalidInput, match="a number with a fraction"):
        json_tensors.to_array(spec, [1.0])


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [((None,), [], (0,)), ((None, 3), [], (0, 3)), (None, [[], []], (2, 0)), ((), 2, ())],
)
def test_empty_and_scalar(shape: Any, value: Any, expected: tuple[int, ...]) -> None:
    assert json_tensors.to_array(TensorSpec("x", DType.FLOAT32, shape), value).shape == expected


def test_complex_numbers_have_no_json() -> None:
    spec = TensorSpec("x", DType.COMPLEX64, None)
    with pytest.raises(InvalidInput, match="which JSON has no form for"):
        json_tensors.to_array(spec, [1])
    with pytest.raises(InvalidInput, match="which JSON has no form for"):
        json_tensors.from_array(spec, np.zeros(1, np.complex64))


def write(signature: Signature, *, as_rows: bool, **outputs: Any) -> str:
    return json_tensors.write_outputs(signature, outputs, as_rows=as_rows).decode()


def test_the_only_output_has_no_name() -> None:
    y = np.array([0.1, np.nan, np.inf], np.float32)
    assert write(ONE, as_rows=True, y=y) == '{"predictions": [0.1, NaN, Infinity]}'
    assert write(ONE, as_rows=False, y=y[:1]) == '{"outputs": [0.1]}'


def test_several_outputs_in_both_forms() -> None:
    outputs = {"label": np.array([b"ox", b"\xff"], object), "score": np.array([1, 2], np.float32)}
    assert write(TWO, as_rows=True, **outputs) == (
        '{"predictions": [{"label": "ox", "score": 1.0}, {"label": {"b64": "/w=="}, "score": 2.0}]}'
    )
    assert write(TWO, as_rows=False, **outputs) == (
        '{"outputs": {"label": ["ox", {"b64": "/w=="}], "score": [1.0, 2.0]}}'
    )


def test_an_alias_that_ends_in_bytes() -> None:
    spec = TensorSpec("png_bytes", DType.BYTES, (None,))
    assert json_tensors.from_array(spec, np.array([b"hi"], object)) == [{"b64": "aGk="}]


@pytest.mark.parametrize("scores", [np.zeros(3, np.float32), np.zeros((), np.float32)])
def test_rows_need_a_common_first_dimension(scores: Any) -> None:
    with pytest.raises(InvalidInput, match="no common first dimension"):
        write(TWO, as_rows=True, label=np.array([b"a"], object), score=scores)


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", '{"inputs": 1,}', "[" * 100_000])
def test_a_body_that_is_not_a_json_object(text: str) -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        parse_body(text, max_depth=64)


def test_what_follows_the_object_is_ignored() -> None:
    assert parse_body(' \n{"inputs": 1} and more', max_depth=64) == {"inputs": 1}
