"""`Client.infer` on mlserve's own server: any signature, in both APIs, over both transports."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mlserve import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Outputs,
    UsageError,
)
from mlserve.client import arrays, tensor, values
from mlserve.client.outputs import pack_numbers
from mlserve.tensors import DType
from mlserve.wire.tensors import COMPLEX

PATHS = pytest.mark.parametrize(
    ("api", "protocol"), [(api, way) for api in ("tfs", "oip") for way in ("grpc", "rest")]
)
Array = np.ndarray[Any, Any]


def sample(dtype: DType) -> Array:
    """Values at the edges of the type, in an array of two dimensions."""
    if dtype is DType.BYTES:
        return np.array([["", "é", b"\xff\x00\xfe"], [b'{"b64": 1}', "x" * 300, b"\0"]], object)
    if dtype is DType.BOOL:
        return np.array([[True, False, True]])
    if dtype in COMPLEX:
        return np.array([[1 + 2j, complex("nan"), complex(0, -np.inf)]], dtype.label)
    if dtype is DType.BFLOAT16:
        return np.array([[0.1, np.nan, -np.inf, 3.3e38, -0.0, 1e-40]], ml_dtypes.bfloat16)
    stored = arrays.stored(dtype)
    if stored.kind == "f":
        limits = np.finfo(stored)
        rows = [[0.1, np.nan, np.inf, -np.inf], [limits.max, limits.tiny, -0.0, 1 / 3]]
        return np.array(rows, stored)
    edges = np.iinfo(stored)
    return np.array([[edges.min, edges.max], [edges.max - 1, 0]], stored)


def as_bytes(array: Array) -> Any:
    """What two arrays share that are the same to the last bit; a NaN is any NaN."""
    if array.dtype == object:
        return [v.encode() if isinstance(v, str) else v for v in array.reshape(-1).tolist()]
    is_nan = np.isnan(array) if array.dtype.kind in "fcV" else False
    return np.where(is_nan, array.dtype.type(0), array).tobytes()


@pytest.fixture(params=[(api, way) for api in ("tfs", "oip") for way in ("grpc", "rest")], ids=str)
def client(request: pytest.FixtureRequest, echo: Any) -> Any:
    api, protocol = request.param
    with Client(echo.endpoint(protocol), api=api) as client:
        yield client


def test_every_type_arrives_and_comes_back_to_the_last_bit(client: Any) -> None:
    for dtype in DType:
        if (client.api == "oip" and dtype.oip_name is None) or (
            dtype in COMPLEX and client.endpoint.protocol == "rest"
        ):
            continue
        sent = sample(dtype)
        found = client.infer({"x": sent}, signature=f"identity_{dtype.label}", timeout=20)["y"]

        assert (found.dtype, found.shape) == (sent.dtype, sent.shape), dtype
        assert as_bytes(found) == as_bytes(sent), dtype
        assert found.flags.writeable


def test_complex_numbers_and_quantised_ones_have_no_form_in_some_places(echo: Any) -> None:
    with Client(echo.endpoint("rest"), api="tfs") as client:
        with pytest.raises(InvalidInput, match="complex64, which JSON has no form for") as caught:
            client.infer({"x": [1j]}, signature="identity_complex64", timeout=20)
        assert "grpc" in str(caught.value.hint)
    with Client(echo.grpc, api="oip") as client, pytest.raises(InvalidInput, match="has no type"):
        client.infer({"x": [1j]}, signature="identity_complex64", timeout=20)


def test_lists_scalars_and_strings(client: Any) -> None:
    two = client.infer({"a": [1, 2.5], "b": (3, 4)}, signature="two", timeout=20)
    assert {name: value.tolist() for name, value in two.items()} == {
        "sum": [4.0, 6.5],
        "product": [3.0, 10.0],
    }
    for given, wanted in (("good morning", b"good morning"), (b"\xff\0", b"\xff\0")):
        found = client.infer({"x": given}, signature="identity_bytes", timeout=20)["y"]
        assert (found.shape, found[()]) == ((), wanted)
    found = client.infer({"x": 7}, signature="identity_int8", timeout=20)["y"]
    assert (found.dtype, found.shape, int(found)) == (np.int8, (), 7)


def test_numbers_that_json_readers_like_to_round(client: Any) -> None:
    whole = [2**53 + 1, -(2**63), 2**63 - 1]
    found = client.infer({"x": whole}, signature="identity_int64", timeout=20)["y"]
    assert found.tolist() == whole
    found = client.infer({"x": [2**64 - 1]}, signature="identity_uint64", timeout=20)["y"]
    assert found.tolist() == [2**64 - 1]
    exact = [0.1 + 0.2, 1e-320, 1.7976931348623157e308]
    found = client.infer({"x": exact}, signature="identity_float64", timeout=20)["y"]
    assert found.tolist() == exact


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 0, 3), (1, 1, 1, 2)])
def test_empty_arrays(client: Any, shape: tuple[int, ...]) -> None:
    """The model takes any shape, so that JSON's empty list alone cannot say what is inside it."""
    is_unclear = 0 in shape[:-1] and (client.api, client.endpoint.protocol) == ("tfs", "rest")
    for dtype, signature in (("float32", "identity_float32"), (object, "identity_bytes")):
        sent = np.full(shape, b"x" if dtype is object else 1, dtype)
        if is_unclear:
            with pytest.raises(InvalidInput, match="an empty list in JSON shows only"):
                client.infer({"x": sent}, signature=signature, timeout=20)
            continue
        found = client.infer({"x": sent}, signature=signature, timeout=20)["y"]
        assert (found.shape, found.dtype) == (shape, sent.dtype)


def test_only_the_outputs_that_are_wanted_in_that_order(client: Any) -> None:
    inputs = {"a": [1.0], "b": [2.0]}
    assert list(client.infer(inputs, signature="two", outputs=["product"], timeout=20)) == [
        "product"
    ]
    both = client.infer(inputs, signature="two", outputs=("product", "sum"), timeout=20)
    assert list(both) == ["product", "sum"]
    assert both["sum"].tolist() == [3.0]
    with pytest.raises(InvalidInput, match=r"'two' of the model .* has no output 'summ'") as caught:
        client.infer(inputs, signature="two", outputs=["summ"], timeout=20)
    assert "did you mean sum?" in str(caught.value.hint)


def test_an_optional_input_may_be_left_out(client: Any) -> None:
    assert client.infer({"a": [1]}, signature="lenient", timeout=20)["sum"].tolist() == [101.0]
    found = client.infer({"a": [1], "b": [2]}, signature="lenient", timeout=20)["sum"]
    assert found.tolist() == [3.0]
    with pytest.raises(InvalidInput, match="needs an input that is missing: 'a'") as caught:
        client.infer({"b": [1]}, signature="lenient", timeout=20)
    shape = "[...]" if client.api == "oip" else "[?]"  # there, one size may be any shape
    assert caught.value.hint == f"it takes a: float32{shape}, b: float32{shape} (optional)"


@pytest.mark.parametrize(
    ("inputs", "said", "hint"),
    [
        ({"a": [1.0]}, "needs an input that is missing: 'b'", "it takes a: float32, b: float32"),
        ({}, "needs inputs that are missing: 'a', 'b'", "it takes a: "),
        ({"a": [1.0], "B": [1.0]}, "has no input 'B'", "did you mean b?"),
        ({"a": [1.0], "b": [1.0], 3: [1.0]}, "the name of an input is text, not 3", "it takes"),
        ([[1.0]], "infer takes inputs by name, not list", 'write infer({"a": ...})'),
        ({"a": [1.0], "b": ["2"]}, "'b' has '2' at [0], which is text", "give numbers, not text"),
        ({"a": [1.0], "b": [None]}, "'b' has None at [0], which is no value", "missing values"),
        ({"a": [[1], [2, 3]], "b": [1]}, "'a' is ragged: the row at [1] has 2", "same length"),
        ({"a": [1e39], "b": [1]}, "'a' has 1e+39 at [0], which is out of range of float32", ""),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(
    client: Any, inputs: Any, said: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.infer(inputs, signature="two", timeout=20)

    assert said in caught.value.message
    assert hint in re.sub(r"\[[?.]+\]", "", str(caught.value.hint))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_wrong_rank_names_both(echo: Any, protocol: str) -> None:
    with Client(echo.endpoint(protocol), api="tfs") as client:
        with pytest.raises(InvalidInput, match=r"'a' has 0 dimensions, \[\].*takes 1: a: flo") as e:
            client.infer({"a": 1.0, "b": [1.0]}, signature="two", timeout=20)
        assert e.value.hint == "for a batch of one, put it into a list: [value]"
        with pytest.raises(InvalidInput, match=r"has 2 dimensions, \[1, 1\]; the model takes 1"):
            client.infer({"a": [[1.0]], "b": [1.0]}, signature="two", timeout=20)


def test_the_signature_is_the_default_one_or_named(client: Any) -> None:
    found = client.infer({"image": [b"a photo", b"another"]}, timeout=20)
    assert found["output_0"].tolist() == [b"sorrel", b"sorrel"]
    assert found.signature == "serving_default"
    with pytest.raises(NotFound, match="twoo") as caught:
        client.infer({"a": [1.0]}, signature="twoo", timeout=20)
    assert "two" in f"{caught.value.message} {caught.value.hint}"
    with pytest.raises(UsageError, match="é"):
        client.infer({"a": [1.0]}, signature="é", timeout=20)
    with pytest.raises(UsageError, match=r"signature must be a name, not \['two'\]"):
        client.infer({}, signature=["two"], timeout=20)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [("sum", "must be a list of names, not 'sum'"), ([], "outputs is empty"), ([3], "not 3")],
)
def test_outputs_are_names(client: Any, outputs: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        client.infer({"a": [1.0], "b": [1.0]}, signature="two", outputs=outputs, timeout=20)


def test_outputs_know_their_call(client: Any) -> None:
    found = client.infer({"a": [0.1], "b": [2]}, signature="two", timeout=20)
    told = found.to_json()

    assert isinstance(found, Outputs)
    assert isinstance(found, dict)
    assert (found.model, found.version, found.attempts) == ("inception_v3", 1, 1)
    assert (found.api, found.protocol) == (client.api, client.endpoint.protocol)
    assert found.endpoint == str(client.endpoint)
    assert found.timings.run is not None
    assert found.timings.total > 0
    assert len(found.request_id) == len(found.trace_id) == 32
    assert not found.has_random_weights
    assert told["outputs"] == {"sum": [2.1], "product": [0.2]}
    assert told["timings_ms"]["total"] > 0
    assert json.loads(json.dumps(told)) == told
    assert "model='inception_v3', version=1" in repr(found)
    again = pickle.loads(pickle.dumps(found))
    assert (again.request_id, again["sum"].tolist()) == (found.request_id, found["sum"].tolist())
    with pytest.raises(KeyError, match="'summ' is not an output; there are: "):
        _ = found["summ"]


def test_strings_and_special_numbers_in_json(client: Any) -> None:
    found = client.infer({"x": ["é", b"\xff"]}, signature="identity_bytes", timeout=20)
    assert found.to_json()["outputs"] == {"y": ["é", {"b64": "/w=="}]}
    found = client.infer({"x": [np.nan, 0.1]}, signature="identity_float16", timeout=20)
    assert json.dumps(found.to_json()["outputs"]) == '{"y": [NaN, 0.099975586]}'


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_async_client_asks_the_same(echo: Any, protocol: str) -> None:
    async def ask() -> list[Outputs]:
        async with AsyncClient(echo.endpoint(protocol)) as client:
            calls = (
                client.infer({"a": [n], "b": [1]}, signature="two", timeout=20) for n in range(9)
            )
            return await asyncio.gather(*calls)

    assert [found["sum"].tolist() for found in asyncio.run(ask())] == [[n + 1.0] for n in range(9)]


@pytest.mark.parametrize("api", ["tfs", "oip"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_deadline_is_total(start_echo: Any, protocol: str, api: Any) -> None:
    """Of a server of its own: one that knows how long such calls take would refuse this one."""
    server = start_echo()
    with (
        Client(server.endpoint(protocol), api=api) as client,
        pytest.raises(DeadlineExceeded, match="no answer within"),
    ):
        client.infer({"seconds": [5.0]}, signature="slow", timeout=0.8)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_megabyte_is_never_a_list_of_python(
    echo: Any, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the Open Inference Protocol arrays travel as they lie in memory."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("an array was taken apart")

    for module in (values, tensor):
        for name in ("pack_numbers", "unpack_numbers"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    monkeypatch.setattr("mlserve.client.outputs.pack_numbers", refuse)
    assert pack_numbers is not refuse
    sent = np.random.default_rng(1).random((512, 512), np.float32)
    with Client(echo.endpoint(protocol), api="oip") as client:
        found = client.infer({"x": sent}, signature="identity_float32", timeout=20)["y"]

    assert found.tobytes() == sent.tobytes()


def test_arrays_in_any_order_of_memory(client: Any) -> None:
    for sent in (
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(8, dtype=np.float32)[::2],
        np.arange(3, dtype=">f4"),
    ):
        found = client.infer({"x": sent}, signature="identity_float32", timeout=20)["y"]
        assert found.tolist() == sent.tolist()
