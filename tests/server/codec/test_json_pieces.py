"""Long JSON in pieces: the same values and the same errors as `json.loads`, whatever the cuts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.body_memory import UNBOUNDED, Room
from mlserve.server.codec.json_lists import PackedList
from mlserve.server.codec.json_outline import check_depth
from mlserve.server.codec.json_parser import after_blanks, finite, raw_decode
from mlserve.server.codec.rapidjson import Decoder, parse_body
from mlserve.server.listen.http_body import text_of
from mlserve.server.tensors import most_rows
from mlserve.server.tfs import json_tensors
from mlserve.tensors import DType, Signature, TensorSpec

TEXTS = st.text(max_size=12) | st.text(alphabet='\\"[]{},:\n😀é', max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([2**63, -(2**63), 2**64, 10**400, 1e308, 0.1, -0.0, 5e-324])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=40,
)
NUMBERS = st.recursive(
    st.lists(st.integers(-300, 300) | st.floats(width=32), min_size=1, max_size=20),
    lambda inner: st.lists(inner, min_size=1, max_size=6),
)
BODIES = st.dictionaries(TEXTS, VALUES | NUMBERS, max_size=4)
DECODER = json.JSONDecoder(parse_float=finite)
BLOCKS = st.integers(1, 40)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n  ")])


@st.composite
def texts(draw: Any) -> str:
    body, separators, is_ascii = draw(BODIES), draw(SEPARATORS), draw(st.booleans())
    blanks = draw(st.sampled_from(["", " ", "\n" * 50]))
    return blanks + json.dumps(body, separators=separators, ensure_ascii=is_ascii) + blanks


@st.composite
def broken_texts(draw: Any) -> str:
    text = draw(texts())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        gone = draw(st.integers(0, 3))
        text = (
            text[:place]
            + draw(st.text('[]{},:"\\ 1e.-+tnN\x01u', max_size=2))
            + text[place + gone :]
        )
    return "{" + text.lstrip().removeprefix("{")


def in_pieces(text: str, block: int) -> Any:
    """What the long way makes of it: the object, or the words of the error."""
    start = after_blanks(text, 0)
    try:
        body, _ = raw_decode(DECODER, text, start, UNBOUNDED, max_depth=64, block=block)
    except InvalidInput as error:
        return error.message
    except ValueError as error:
        return f"JSON Parse error: {error}"
    return body


def at_once(text: str) -> Any:
    """What the same decoder makes of it in one go."""
    try:
        check_depth(text, 64)
        return DECODER.raw_decode(text, after_blanks(text, 0))[0]
    except InvalidInput as error:
        return error.message
    except ValueError as error:
        return f"JSON Parse error: {error}"


def read_object(content: bytes, room: Room = UNBOUNDED, **options: Any) -> Any:
    return parse_body(text_of(content, room), max_depth=64, room=room, **options)


def said(value: Any) -> str:
    """A text that is equal for equal values of equal types: NaN is not equal to itself."""
    return repr(value)


def same(packed: Any, plain: Any) -> bool:
    """Whether they are the same; what was packed may be floats for floats mixed with integers."""
    if isinstance(packed, PackedList):
        return _as_arrays(packed) == _as_arrays(plain)
    if isinstance(packed, list):
        return len(packed) == len(plain) and all(map(same, packed, plain))
    if isinstance(packed, dict):
        return list(packed) == list(plain) and all(map(same, packed.values(), plain.values()))
    return said(packed) == said(plain)


def _as_arrays(value: Any) -> list[str]:
    """What becomes of the value as an input of each type: an array, or the error."""
    found = []
    for dtype in (
        DType.FLOAT32,
        DType.FLOAT64,
        DType.INT32,
        DType.INT64,
        DType.UINT64,
        DType.BOOL,
        DType.BYTES,
    ):
        try:
            array = json_tensors.to_array(TensorSpec("x", dtype, None), value)
        except InvalidInput as error:
            # Which value it shows may differ: a packed list knows its types, not where each stands.
            found.append(str(error).rpartition(" is not of expected type: ")[2])
        else:
            found.append(f"{array.shape} {array.dtype} {array.tolist()}")
    return found


@pytest.mark.slow
@example('{"00":[0,0.0,{}]}', 7)
@example('{"00":[9007199254740993,0.5,{}]}', 13)
@given(texts(), BLOCKS)
def test_values_are_those_of_the_parser_at_once(text: str, block: int) -> None:
    assert same(in_pieces(text, block), at_once(text))


@pytest.mark.slow
@given(broken_texts(), BLOCKS)
def test_faults_are_told_as_by_the_parser_at_once(text: str, block: int) -> None:
    found, expected = in_pieces(text, block), at_once(text)
    assert found == expected if isinstance(expected, str) else same(found, expected)


@pytest.mark.slow
@given(NUMBERS, BLOCKS, st.sampled_from([DType.FLOAT32, DType.INT8, DType.FLOAT64]))
def test_arrays_and_their_errors_are_the_same(value: Any, block: int, dtype: DType) -> None:
    text = json.dumps({"inputs": value})
    assert _as_arrays(in_pieces(text, block)["inputs"]) == _as_arrays(value)


@pytest.mark.parametrize("count", [3, 100_000])
@pytest.mark.parametrize(
    ("written", "value"),
    [("Inf", math.inf), ("-Inf", -math.inf), ("-NaN", math.nan), ("Infinity", math.inf)],
)
@pytest.mark.parametrize("form", ["[{0}{1}]", "[{1},{0}{1}]", "[{2}{1}]"])
def test_the_spellings_of_tensorflow_serving_in_long_lists(
    written: str, value: float, form: str, count: int
) -> None:
    items = form.format("1.5," * count, written, f"{written}," * count)
    body = parse_body(f'{{"inputs": {items}}}', max_depth=64)
    array = json_tensors.to_array(TensorSpec("x", DType.FLOAT64, (None,)), body["inputs"])
    expected = [1.5 if item == "1.5" else value for item in items[1:-1].split(",")]
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("row", ["[Inf]", "[ 1, -NaN]", '{"x": -Inf}', '{"x": ["Inf", Inf]}'])
def test_those_spellings_in_rows_wherever_they_are_cut(row: str) -> None:
    plain = row.replace("-NaN", "NaN").replace(" Inf]", " Infinity]").replace("-Inf", "-Infinity")
    expected = json.loads(plain.replace("[Inf]", "[Infinity]"))
    for block in range(1, 40):
        text = f'{{"instances": [{",".join([row] * 5)}]}}'
        body, end = raw_decode(Decoder(), text, 0, UNBOUNDED, max_depth=9, block=block)
        assert end == len(text)
        assert same(body["instances"], [expected] * 5)


def test_a_fault_behind_those_spellings_is_told_where_it_is() -> None:
    for text, place in (('{"x": [Inf, -Inf, "Inf", ?]}', 25), ('{"x": [-Inf, [NaN Inf]]}', 18)):
        with pytest.raises(InvalidInput, match=f"at offset: {place} "):
            parse_body(text, max_depth=64)


def test_a_short_list_stays_one_wherever_it_is_cut() -> None:
    """A shape of the Open Inference Protocol, which may be anywhere in a long body."""
    text = '{"inputs": [{"shape": [1, 299, 3]}, {"shape": [] }, {"shape": [ ] }]}'
    for block in range(1, len(text)):
        assert in_pieces(text, block) == json.loads(text)


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "123456e304"])
@pytest.mark.parametrize("count", [1, 100_000])
def test_a_number_that_no_float_holds_is_no_infinity(number: str, count: int) -> None:
    text = f'{{"inputs": [{",".join(["1.5"] * count)}, {number}]}}'
    with pytest.raises(InvalidInput, match="JSON Parse error: Number too big to be stored"):
        parse_body(text, max_depth=64)
    fine = text.replace(number, "Infinity, -Infinity, 1e308, 1e-400")
    assert len(to_floats(fine)) == count + 4


def to_floats(text: str) -> list[float]:
    value = parse_body(text, max_depth=64)["inputs"]
    floats: list[float] = json_tensors.to_array(
        TensorSpec("x", DType.FLOAT64, None), value
    ).tolist()
    return floats


def test_numbers_become_arrays_and_objects_stay() -> None:
    body = {"numbers": [1.5] * 100_000, "rows": [{"x": [1] * 100, "y": [2]}] * 1000}
    read = read_object(json.dumps(body).encode())
    assert isinstance(read["numbers"], PackedList)
    assert all(isinstance(part.values, np.ndarray) for part in read["numbers"].parts)
    assert isinstance(read["rows"], list)
    assert isinstance(read["rows"][999]["x"], PackedList)
    assert read["rows"][999]["y"] == [2]


def test_a_character_of_two_escapes_is_one_wherever_it_is_cut() -> None:
    text = json.dumps({"x": "😀" * 50_000})
    assert read_object(text.encode()) == {"x": "😀" * 50_000}
    lone = '{"x": "' + r"\ud83d\n\ude00" * 50_000 + '"}'
    assert read_object(lone.encode()) == json.loads(lone)


def test_bytes_that_are_not_utf_8_are_told_with_their_place() -> None:
    content = b'{"x": "' + "é".encode() * 100_001 + b"\xff"
    with pytest.raises(InvalidInput, match="byte 0xff in position 200009: invalid start byte"):
        read_object(content)
    assert read_object(b"\xef\xbb\xbf" + b'{"x": 1}' + b" " * 300_000) == {"x": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" + "1," * 200_000, "must be an object"),
        ('{"x": ' + "1" * 200_000, "a number of more than 65536 digits"),
        ('{"x": 0.' + "1" * 200_000 + "}", "a number of more than 65536 digits"),
        ('{"' + "n" * 200_000 + '": 1}', "a name of 200000 characters"),
        ("{" + ",".join(f'"{n}":1' for n in range(70_000)) + "}", "more than 65536 names"),
        ('{"x": ' + "[" * 200_000, "nested deeper than 64 levels"),
        ('{"x": 1}' + " " * 200_000 + "1", "Extra data: line 1 column 9"),
    ],
)
def test_what_costs_too_much_is_refused(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        read_object(text.encode(), ignores_rest=False)


class Counted(Room):
    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, size: int) -> None:
        if self.taken + size > self.most:
            raise InputTooLarge("no room")
        self.taken += size


@pytest.mark.slow
@pytest.mark.parametrize("item", ["1", "[]", '"ab"', "{}", '{"x":1}', '{"x":[]}', '{"x":[1,2]}'])
def test_memory_is_counted_before_there_are_objects(item: str) -> None:
    text = f'{{"inputs": [{",".join([item] * 200_000)}]}}'
    room = Counted(10**12)
    assert read_object(text.encode(), room)
    assert room.taken >= len(text) + 8 * 200_000
    small = Counted(len(text) * 3 // 2)
    with pytest.raises(InputTooLarge):
        read_object(text.encode(), small)


def test_rows_are_counted_while_they_are_read() -> None:
    """What follows is not looked at: it would be a fault."""
    text = '{"instances": [' + "[1.5, 2.5]," * 100_000 + "?"
    with pytest.raises(InputTooLarge, match=r"more than 1024 rows; .* \(--max-batch-length\)"):
        parse_body(text, max_depth=64, most_rows=1024)
    other = text.replace("instances", "inputs")
    with pytest.raises(InvalidInput, match="Expecting value"):
        parse_body(other, max_depth=64, most_rows=1024)


@pytest.mark.parametrize(
    ("shapes", "most"), [([(None,), (None, 3)], 9), ([(None,), None], None), ([(3,)], None)]
)
def test_rows_are_limited_where_every_input_has_rows(shapes: Any, most: int | None) -> None:
    inputs = tuple(TensorSpec(f"x{n}", DType.FLOAT32, shape) for n, shape in enumerate(shapes))
    assert most_rows([Signature("s", inputs, ())], 9) == most


def test_nobody_waits_for_the_rest_of_a_long_body() -> None:
    class Expired(Room):
        asked = 0

        def require_time(self) -> None:
            self.asked += 1
            if self.asked > 40:
                raise InputTooLarge("expired")

    text = json.dumps({"inputs": [1.25] * 1_000_000})
    with pytest.raises(InputTooLarge, match="expired"):
        read_object(text.encode(), Expired())
