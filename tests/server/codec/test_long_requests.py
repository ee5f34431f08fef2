"""Long JSON gives the values of short JSON, on a real server: other code reads what is long.

Each request is sent twice, as it is and with its first items many times over, and in every form of
both protocols.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlserve.server.tensors import NUMPY
from mlserve.tensors import DType

pytestmark = pytest.mark.server

LONG = 160_000
"""Characters of a body that is read in pieces, and more than two of them."""
INTEGERS = (
    *("0", "-1", "1", "127", "-128", "255", "-32769", "65535", "4294967295", "16777217"),
    *("9223372036854775807", "-9223372036854775808", "9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "1" * 30),
)
FLOATS = (
    *("0.1", "-0.0", "1e-45", "3.4028235e38", "1.7976931348623157e308", "5e-324", "0.5", "1E+2"),
    *("0.30000000000000004", "1e39", "NaN", "-NaN", "Inf", "-Inf", "Infinity", "-Infinity"),
)
STRINGS = (
    *('"a"', '""', '"é😀"', r'"\ud83d\ude00"', r'"\u0000\\\"\/\n"', r'"\ud83d"', '"[1,2]{"'),
    *(
        '{"b64": "AP8="}',
        '{"b64": ""}',
        r'{"b64": "YW\nI"}',
        '{"b64": "!"}',
        '{"b64":"YQ==","x":1}',
    ),
)
OTHERS = ("true", "false", "null", "[]", "{}", "[1, 2]", '{"x": 1}')
USUAL = {DType.BYTES: STRINGS, DType.BOOL: ("true", "false")}
DTYPES = [dtype for dtype in DType if dtype.oip_name]


@dataclass(frozen=True)
class Sent:
    """Items as they are written; the last ones come once, the first ones as often as it takes."""

    dtype: DType
    first: list[str]
    last: list[str]
    comma: str
    wrap: str
    form: str
    encoding: str

    @property
    def is_open_inference(self) -> bool:
        return self.form.startswith("v2")

    def items(self, times: int) -> list[str]:
        return [self.wrap.replace("_", item) for item in self.first * times + self.last]

    def body(self, times: int) -> str:
        items = self.items(times)
        if self.form == "rows of objects":
            items = [f'{{"x" :{item}}}' for item in items]
        values = f"[{self.comma.join(items)}]"
        signature = f'"signature_name": "identity_{self.dtype.label}"'
        if self.form.startswith("rows"):
            return f'{{{signature}, "instances": {values} }}'
        if self.form == "column":
            return f'{{"inputs":\n{values}, {signature}}}'
        if self.form == "columns":
            return f'{{"inputs": {{"x": {values}}}, {signature}, "inputs": 1}}'
        shape = [len(items), *[1] * self.wrap.count("[")]
        return (
            f'{{"parameters": {{"signature": "identity_{self.dtype.label}"}}, "inputs": [{{'
            f'"name": "x", "data": {values}, "shape": {shape}, '
            f'"datatype": "{self.dtype.oip_name}"}}]}}'
        )

    def times(self) -> int:
        return LONG // (len(self.comma) + min(map(len, self.first))) // len(self.first) + 1


@st.composite
def requests(draw: Any) -> Sent:
    dtype = draw(st.sampled_from(DTYPES))
    usual = USUAL.get(dtype, FLOATS + INTEGERS if "float" in dtype.label else INTEGERS)
    if dtype not in USUAL and "float" not in dtype.label:
        limits = np.iinfo(NUMPY[dtype])
        usual = tuple(text for text in usual if limits.min <= int(text) <= limits.max)
    fitting = st.sampled_from(usual)
    some = st.sampled_from((*usual, *INTEGERS, *FLOATS, *STRINGS, *OTHERS))
    forms = ("rows", "rows of objects", "column", "columns", "v2")
    return Sent(
        dtype,
        draw(st.lists(fitting, min_size=1, max_size=6) | st.lists(some, min_size=1, max_size=3)),
        draw(st.just([]) | st.lists(fitting, max_size=2) | st.lists(some, min_size=1, max_size=1)),
        draw(st.sampled_from([",", ", ", " \n,\t\r\n"])),
        draw(st.sampled_from(["_", "_", "[_]", "[ [_ ]]"])),
        draw(st.sampled_from(forms)),
        draw(st.sampled_from(["identity", "gzip", "deflate", "chunked"])),
    )


def encoded(text: str, encoding: str) -> tuple[bytes | Iterator[bytes], dict[str, str]]:
    content = text.encode("utf-8", "surrogatepass")
    if encoding == "chunked":
        return (content[at : at + 40_009] for at in range(0, len(content), 40_009)), {}
    if encoding == "identity":
        return content, {}
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    return pack(content), {"content-encoding": encoding}


def ask(http: httpx.Client, sent: Sent, times: int) -> tuple[int, Any]:
    """The status, and the values as they are written or the words of the error."""
    content, headers = encoded(sent.body(times), sent.encoding)
    path = "/v2/models/m/infer" if sent.is_open_inference else "/v1/models/m:predict"
    response = http.post(path, content=content, headers=headers)
    answer = json.loads(response.text, parse_float=str, parse_int=str, parse_constant=str)
    if response.status_code != httpx.codes.OK:
        # Which value and which index it shows may differ, and the shape does.
        return response.status_code, str(answer["error"]).rpartition(" type: ")[2]
    if sent.is_open_inference:
        (output,) = answer["outputs"]
        return response.status_code, output["data"]
    (values,) = answer.values()
    return response.status_code, values


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.rest}", timeout=30) as client:
        yield client


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sent=requests())
def test_a_long_request_is_answered_as_a_short_one(http: httpx.Client, sent: Sent) -> None:
    times = sent.times()
    short_status, short = ask(http, sent, 1)
    long_status, long = ask(http, sent, times)
    assert long_status == short_status, (short, long)
    if short_status != httpx.codes.OK:
        assert without_counts(long) == without_counts(short)
        return
    count = len(sent.first)
    assert long == short[:count] * times + short[count:]
    if sent.dtype is not DType.BYTES:
        assert_exact(sent, short)


def without_counts(problem: str) -> str:
    """The words, without what is of the other length, and in front of a list of lengths."""
    return "".join(letter for letter in problem.partition("[")[0] if not letter.isdigit())


def assert_exact(sent: Sent, answer: Sequence[Any]) -> None:
    """The values that were answered are to the bit those that numpy makes of what was sent."""
    expected = np.array([number(item) for item in sent.first + sent.last])
    if sent.dtype not in (DType.INT64, DType.UINT64):
        with np.errstate(over="ignore"):
            expected = expected.astype(np.float64).astype(NUMPY[sent.dtype])
    found = [number(item) for item in np.array(answer).reshape(-1).tolist()]
    written = np.array(found, expected.dtype)
    assert [*map(repr, written.tolist())] == [*map(repr, expected.tolist())]


def number(text: Any) -> float:
    if text in ("true", "false", True, False, "True", "False"):
        return text in ("true", True, "True")
    try:
        return int(text)
    except ValueError:
        return math.nan if text == "-NaN" else float(text)


def test_a_long_list_in_place_of_a_signature_name_is_a_fault_of_the_client(
    http: httpx.Client,
) -> None:
    body = {"signature_name": [1] * LONG, "inputs": 1}
    response = http.post("/v1/models/m:predict", json=body)
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert response.json()["error"].startswith("JSON Value: [...] not formatted correctly.")
