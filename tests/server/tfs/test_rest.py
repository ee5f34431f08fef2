"""JSON as TensorFlow Serving takes it: the cases of its json_tensor_test.cc, and RapidJSON's."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import numpy as np
import pytest
import rapidjson

from mlserve.errors import InvalidInput
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.tfs import json_tensors
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType, Signature, TensorSpec

PREDICT = "/v1/models/m:predict"
FLOATS = "identity_float32"


def taking(**dtypes: DType) -> Signature:
    """A signature of inputs of those types and any shape, as the ones of json_tensor_test.cc."""
    inputs = tuple(TensorSpec(name, dtype, None) for name, dtype in sorted(dtypes.items()))
    return Signature("serving_default", inputs, (TensorSpec("y", DType.FLOAT32, None),))


def read(signature: Signature, text: str) -> dict[str, Any]:
    arrays = json_tensors.read_inputs(signature, parse_body(text, max_depth=64), DEFAULT_SETTINGS)
    return {name: array.tolist() for name, array in arrays.items()}


def refusal(signature: Signature, text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(signature, text)
    return caught.value.message


INT = taking(default=DType.INT32)
FLOAT = taking(default=DType.FLOAT32)
TEXT = taking(default=DType.BYTES)
INT_AND_TEXT = taking(int_tensor=DType.INT32, str_tensor=DType.BYTES)
FOUR = taking(
    int_tensor=DType.INT32,
    str_tensor=DType.BYTES,
    float_tensor=DType.FLOAT32,
    dbl_tensor=DType.FLOAT64,
)


@pytest.mark.parametrize(
    ("signature", "text", "expected"),
    [
        (INT, '{"instances": [[1,2],[3,4],[5,6]]}', [[1, 2], [3, 4], [5, 6]]),
        (FLOAT, '{"instances": [1, 2.0, 3, 0.5, 0.0]}', [1.0, 2.0, 3.0, 0.5, 0.0]),
        (INT, '{"signature_name": "predict_images", "instances": [[1,2]]}', [[1, 2]]),
        (TEXT, '{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', [b"hello", b"world"]),
        (TEXT, '{"instances": [[{"b64": "aGVsbG8="}], ["w"]]}', [[b"hello"], [b"w"]]),
        (
            TEXT,
            '{"instances": [{"default": [[{"b64": "aGVsbG8="}], ["w"]]}]}',
            [[[b"hello"], [b"w"]]],
        ),
        (INT, '{"inputs": {"default": [[[1,2],[3,4],[5,6]]]}}', [[[1, 2], [3, 4], [5, 6]]]),
        (INT, '{"inputs": [[[1,2],[3,4],[5,6]]]}', [[[1, 2], [3, 4], [5, 6]]]),
        (TEXT, '{"inputs": {"b64": "aGVsbG8="}}', b"hello"),
        (INT, '{"inputs": 1}', 1),
        (INT, '{"inputs": {"default": [1], "other": [2]}}', [1]),
        (INT, '{"inputs": [1]} and more', [1]),
    ],
)
def test_what_json_tensor_test_reads(signature: Signature, text: str, expected: Any) -> None:
    assert read(signature, text) == {"default": expected}


def test_several_named_tensors_in_rows_and_columns() -> None:
    row = (
        '{"int_tensor": [[1,2]], "str_tensor": ["foo"], "float_tensor": [NaN], "dbl_tensor": [%s]}'
    )
    found = read(FOUR, f'{{"instances": [{row % "2.0"}, {row % "Infinity"}]}}')
    assert found["int_tensor"] == [[[1, 2]], [[1, 2]]]
    assert found["str_tensor"] == [[b"foo"], [b"foo"]]
    assert all(math.isnan(value) for [value] in found["float_tensor"])
    assert found["dbl_tensor"] == [[2.0], [math.inf]]
    columns = '{"inputs": {"int_tensor": [[1]], "str_tensor": {"b64": "aGVsbG8="}, "none": 0}}'
    assert read(INT_AND_TEXT, columns) == {"int_tensor": [[1]], "str_tensor": b"hello"}


@pytest.mark.parametrize(
    ("signature", "text", "said"),
    [
        (INT, "", "JSON Parse error: The document is empty"),
        (INT, "instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        (INT, '{"inputs" [1]}', "JSON Parse error: Missing a colon after a name of object member."),
        (INT, '{"inputs": [1, 2}', "JSON Parse error: Missing a comma"),
        (INT, '{"inputs": "a', "JSON Parse error: Missing a closing quotation mark in string."),
        (INT, "[1]", "JSON Value: [...] Is not object"),
        (
            INT,
            '{"instances": [1], "inputs": [1]}',
            "JSON Value: {...} Not formatted correctly expect",
        ),
        (INT, "{}", "Missing 'inputs' or 'instances' key"),
        (INT, '{"instances": 5}', "JSON Value: 5 Excepting 'instances' to be an list/array"),
        (INT, '{"instances": []}', "JSON Value: [] No values in 'instances' array"),
        (INT, '{"instances": [[1,2],[3,4],[5,6,7]]}', "input 'default' is not a regular tensor"),
        (INT, '{"instances": [[1,2],[3,4],[[5,6]]]}', "input 'default' is not a regular tensor"),
        (INT, '{"instances": [1, [1]]}', "input 'default' is not a regular tensor"),
        (
            INT,
            '{"instances": [[1,2],["a", "b"]]}',
            'JSON Value: "a" Type: String is not of expected type: int32',
        ),
        (FLOAT, '{"inputs": ["x"]}', 'JSON Value: "x" Type: String is not of expected type: float'),
        (FLOAT, '{"inputs": [null]}', "JSON Value: null Type: Null is not of expected type: float"),
        (FLOAT, '{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        (FLOAT, '{"inputs": [{}]}', "JSON Value: {} Type: Object is not of expected type: float"),
        (TEXT, '{"inputs": [1.5]}', "JSON Value: 1.5 Type: Number is not of expected type: string"),
        (
            INT_AND_TEXT,
            '{"instances": [1]}',
            "instances is a plain list, but expecting list of objects as multiple input tensors",
        ),
        (
            INT_AND_TEXT,
            '{"inputs": [1]}',
            "inputs is a plain value/list, but expecting an object as multiple input tensors",
        ),
        (
            INT_AND_TEXT,
            '{"instances": [{"int_tensor": 1, "str_tensor": "a"}, [1, 20, 30]]}',
            "Expecting object but got list at item 1 of input list",
        ),
        (
            TEXT,
            '{"instances": [["baz", "bar"], {"default": ["baz", "bat"]}]}',
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            TEXT,
            '{"instances": [{"default": "a"}, {"b64": "aGk="}]}',
            "Expecting object but got list at item 1 of input list",
        ),
        (
            INT_AND_TEXT,
            '{"instances": [{"int_tensor": 1, "str_tensor": "a"}, {"int_tensor": 1}]}',
            "Failed to process element: 1 of 'instances' list.",
        ),
        (
            INT_AND_TEXT,
            '{"inputs": {"int_tensor": [1]}}',
            "Missing named input: str_tensor in 'inputs' object",
        ),
    ],
)
def test_what_json_tensor_test_refuses(signature: Signature, text: str, said: str) -> None:
    assert refusal(signature, text).startswith(said)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"a": (2, 3), "b": (1, 3)}, "Tensor name: b has inconsistent batch size: 1 expecting: 2"),
        ({"a": (0, 2), "b": (1, 2)}, "Tensor name: b has inconsistent batch size: 1 expecting: 0"),
        ({"a": ()}, "Tensor name: a has no shape information "),
    ],
)
def test_outputs_that_are_no_rows(outputs: dict[str, tuple[int, ...]], said: str) -> None:
    specs = tuple(TensorSpec(name, DType.INT32, None) for name in outputs)
    arrays = {name: np.zeros(shape, np.int32) for name, shape in outputs.items()}
    with pytest.raises(InvalidInput) as caught:
        json_tensors.write_outputs(Signature("s", (), specs), arrays, as_rows=True)
    assert caught.value.message.startswith(said)


SPELLINGS = [
    *("NaN", "-NaN", "Inf", "-Inf", "Infinity", "-Infinity", "nan", "Nan", "inf", "INF", "+Inf"),
    *("Infinit", "Infi", "-inf", "-0.0", "1e5", "1.79e308", "1e-400", "18446744073709551615"),
    *("+1", ".5", "0x1", "'a'", "tru", "1,", '"a', '"\\x"', '"\\u00g0"', "// c\n1", "{1: 2}"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_numbers_are_spelled_as_rapidjson_takes_them(spelling: str) -> None:
    """Against RapidJSON itself, with the flag that TensorFlow Serving gives it."""
    text = f'{{"inputs": [{spelling}, 0.5]}}'
    try:
        expected = rapidjson.loads(text, number_mode=rapidjson.NM_NAN | rapidjson.NM_NATIVE)
    except rapidjson.JSONDecodeError:
        with pytest.raises(InvalidInput, match="JSON Parse error: "):
            parse_body(text, max_depth=64)
    else:
        assert repr(parse_body(text, max_depth=64)) == repr(expected)


def test_a_string_is_never_taken_for_a_number() -> None:
    text = r'{"inputs": ["Inf", "a\"Inf, -NaN", "-Inf\\", "\\\"Inf"], "x": [Inf, -NaN, "é Inf"]}'
    parsed = parse_body(text, max_depth=64)
    assert parsed["inputs"] == ["Inf", 'a"Inf, -NaN', "-Inf\\", '\\"Inf']
    assert repr(parsed["x"]) == "[inf, nan, 'é Inf']"


@pytest.mark.parametrize("rest", ['"' + '\\"' * 200_000, '"' + "\\" * 400_001, "-NaN," * 100_000])
def test_a_long_body_with_inf_is_read_in_one_pass(rest: str) -> None:
    """A pattern that starts anew at each quote would take minutes for this."""
    assert "JSON Parse error" in refusal(FLOAT, '{"inputs": [Inf, ' + rest)


def test_the_first_of_two_equal_keys_counts() -> None:
    assert read(FLOAT, '{"inputs": [1], "inputs": [2], "x": {}, "x": 1}') == {"default": [1.0]}
    assert read(FLOAT, '{"inputs": {"default": [1], "default": [2]}}') == {"default": [1.0]}


class TestOnTheWire:
    """The same of a real server."""

    def answer(self, http: httpx.Client, text: str) -> Any:
        response = http.post(PREDICT, content=text.encode())
        assert response.status_code == 200, response.text
        return json.loads(response.text)

    def test_a_key_that_is_no_input_is_passed_over(self, http: httpx.Client) -> None:
        text = f'{{"signature_name": "{FLOATS}", "inputs": {{"x": [1.5], "more": "x"}}}}'
        assert self.answer(http, text) == {"outputs": [1.5]}

    def test_a_number_too_large_for_float32_is_infinite(self, http: httpx.Client) -> None:
        text = f'{{"signature_name": "{FLOATS}", "inputs": [1.79e308, -1e39, Inf, -Inf]}}'
        inf = math.inf
        assert self.answer(http, text) == {"outputs": [inf, -inf, inf, -inf]}

    def test_a_row_of_another_kind_is_refused(self, http: httpx.Client) -> None:
        text = f'{{"signature_name": "{FLOATS}", "instances": [[1], {{"x": [2]}}]}}'
        refused = http.post(PREDICT, content=text)
        assert (refused.status_code, refused.json()) == (
            400,
            {"error": "Expecting value/list but got object at item 1 of input list"},
        )

    def test_the_first_signature_name_counts(self, http: httpx.Client) -> None:
        text = f'{{"signature_name": "{FLOATS}", "signature_name": "none", "inputs": [2]}}'
        assert self.answer(http, text) == {"outputs": [2.0]}

    def test_a_signature_name_that_is_not_text(self, http: httpx.Client) -> None:
        refused = http.post(PREDICT, json={"signature_name": 100, "instances": [1]})
        assert refused.status_code == 400
        assert refused.json()["error"] == (
            "JSON Value: 100 not formatted correctly. 'signature_name' key must be a string value."
        )
