"""`infer` and servers of others: what they declare, the forms they answer in, how they change."""

from __future__ import annotations

import json
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from mlserve import Client, InferenceFailed, InvalidInput, NotFound, UsageError
from mlserve.client.adapter import Reply
from mlserve.client.oip_rest import OipRest
from mlserve.client.outputs import typed, values_of
from mlserve.client.refusals import Unreadable
from mlserve.client.tfs_grpc import TfsGrpc
from mlserve.client.tfs_rest import TfsRest
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.wire.headers import MODEL_VERSION, over_http
from mlserve.wire.proto import serving_pb2
from tests.harness.foreign import MODEL, Refusal, Response
from tests.harness.foreign_tensors import TensorEcho
from tests.harness.foreign_tfs import TfsModel

NAN, INF = float("nan"), float("inf")
EVERY = [
    ("d", "FP64", [-1]),
    ("f", "FP32", [-1, 2]),
    ("h", "INT8", [-1]),
    ("l", "INT64", [-1]),
    ("b", "BOOL", [-1]),
    ("s", "BYTES", [-1]),
]
VALUES: dict[str, Any] = {
    "d": [0.1, 1e300],
    "f": [[0.25, -1.5], [3.0, 0.1]],
    "h": [-128, 127],
    "l": [2**53 + 1, -(2**63)],
    "b": [True, False],
    "s": ["é", ""],
}


def one(name: str, dtype: DType, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"is_raw": False},
        {"is_raw": False, "nests": True},
        {"reads_binary": False, "is_raw": False},
    ],
    ids=["raw", "typed", "nested", "json"],
)
def test_every_form_of_an_answer(serve: Any, form: Any) -> None:
    model = TensorEcho(EVERY, EVERY, **form)
    with Client(serve(model), model=MODEL, api="oip") as client:
        found = client.infer(VALUES, timeout=20)

    assert {name: found[name].dtype for name in found} == {
        "d": np.float64,
        "f": np.float32,
        "h": np.int8,
        "l": np.int64,
        "b": np.bool_,
        "s": object,
    }
    assert found["d"].tolist() == VALUES["d"]
    assert found["f"].tolist() == np.array(VALUES["f"], np.float32).tolist()
    assert found["l"].tolist() == VALUES["l"]
    assert found["b"].tolist() == VALUES["b"]
    assert found["s"].tolist() == ["é".encode(), b""]
    assert (found.api, found.version, found.signature) == ("oip", 7, "")


def test_binary_goes_to_a_rest_server_that_declares_it_and_comes_back(over_rest: Any) -> None:
    for reads_binary in (True, False):
        model = TensorEcho(EVERY, EVERY, reads_binary=reads_binary)
        with Client(over_rest(model), model=MODEL, api="oip") as client:
            found = client.infer(VALUES, outputs=["s", "d"], timeout=20)
        assert list(found) == ["s", "d"]
        assert model.asked[0]["binary_data_output"] is reads_binary
        wanted = {"binary_data": reads_binary}
        assert model.asked[0]["outputs"] == [
            {"name": name, "parameters": wanted} for name in ("s", "d")
        ]
        assert ("data" in model.sent[0]["d"][2]) is not reads_binary


def test_strings_in_json_are_text_or_else_what_mlserver_reads(over_rest: Any) -> None:
    model = TensorEcho(
        [("s", "BYTES", [-1])], reads_binary=False, content_type="base64", name="mlserver"
    )
    with Client(over_rest(model), model=MODEL, api="oip") as client:
        for value in (["a", "é"], [b"\xff\0", "a"]):
            found = client.infer({"s": value}, timeout=20)
            assert found["s"].tolist() == [v.encode() if isinstance(v, str) else v for v in value]
    assert model.sent[0]["s"][2]["data"] == ["a", "é"]
    assert model.sent[1]["s"][2]["parameters"] == {"content_type": "base64"}


def test_bytes_that_a_server_would_take_for_text_are_not_sent(over_rest: Any) -> None:
    """KServe hands base64 to its model as it is."""
    model = TensorEcho([("s", "BYTES", [-1])], reads_binary=False, name="kserve")
    with (
        Client(over_rest(model), model=MODEL, api="oip") as client,
        pytest.raises(InvalidInput, match="'s' has bytes that are not UTF-8") as caught,
    ):
        client.infer({"s": [b"\xff"]}, timeout=20)
    assert caught.value.hint == 'ask over gRPC: protocol="grpc"'
    assert not model.sent


def test_nan_in_json_and_what_stands_for_it(over_rest: Any) -> None:
    """A server whose JSON has null for NaN has lost which number it was."""
    model = TensorEcho([("d", "FP64", [-1])], reads_binary=False, is_raw=False)
    with Client(over_rest(model), model=MODEL, api="oip") as client:
        found = client.infer({"d": [NAN, INF, -INF]}, timeout=20)
        np.testing.assert_array_equal(found["d"], [NAN, INF, -INF])
        model._in_json = lambda *_: {"data": [None]}  # type: ignore[method-assign]
        with pytest.raises(InferenceFailed, match="'d': null stands for a number") as caught:
            client.infer({"d": [NAN]}, timeout=20)
        assert 'ask over gRPC: protocol="grpc"' in str(caught.value.hint)
        model.refusals = [Refusal("INVALID_ARGUMENT", "json_invalid: unexpected character")]
        with pytest.raises(InvalidInput, match="unexpected character") as refused:
            client.infer({"d": [NAN]}, timeout=20)
    assert 'ask over gRPC: protocol="grpc"' in str(refused.value.hint)


def test_what_a_server_does_not_declare_goes_as_it_is_in_python(serve: Any) -> None:
    model = TensorEcho([])
    with Client(serve(model), model=MODEL, api="oip") as client:
        found = client.infer(
            {"a": [1, 2], "b": [0.5], "c": ["x"], "d": np.array([1], np.int8)}, timeout=20
        )
    assert {name: value.dtype for name, value in found.items()} == {
        "a": np.int64,
        "b": np.float64,
        "c": object,
        "d": np.int8,
    }


def test_the_metadata_is_asked_for_once(serve: Any) -> None:
    model = TensorEcho([("d", "FP64", [-1])])
    with Client(serve(model), model=MODEL) as client:
        for _ in range(3):
            client.infer({"d": [1.0]}, timeout=20)
        assert [type(found).__name__ for found in client.infer_many([{"d": [1.0]}] * 3)] == [
            "Outputs"
        ] * 3
    assert model.calls.count("ModelMetadata") == 1
    with Client(serve(model), model=MODEL, api="oip") as client:
        items = [{"d": [1.0]}] * 9
        assert len(list(client.infer_many(items, parallel=9, timeout=20))) == 9
    assert model.calls.count("ModelMetadata") == 2


def test_the_metadata_is_asked_for_again_when_the_model_has_changed(serve: Any) -> None:
    """The inputs are checked against what is served now, not against what once was."""
    model = TensorEcho([("old", "FP64", [-1])])
    with Client(serve(model), model=MODEL, api="oip") as client:
        client.infer({"old": [1.0]}, timeout=20)
        model.inputs = [("new", "FP32", [-1])]
        assert client.infer({"new": [1]}, timeout=20)["new"].dtype == np.float32

        model.inputs = [("new", "FP64", [-1])]
        text = "unexpected datatype FP32 for input 'new', expecting FP64"
        model.refusals = [Refusal("INVALID_ARGUMENT", text)]
        assert client.infer({"new": [0.1]}, timeout=20)["new"].tolist() == [0.1]

        model.refusals = [Refusal("INVALID_ARGUMENT", "too many rows")]
        with pytest.raises(InvalidInput, match="too many rows"):
            client.infer({"new": [0.1]}, timeout=20)
        asked = model.calls.count("ModelMetadata")
        model.version = "8"
        client.infer({"new": [0.1]}, timeout=20)
        client.infer({"new": [0.1]}, timeout=20)
    assert model.calls.count("ModelMetadata") == asked + 1


def test_a_nameless_function_has_no_signatures(serve: Any) -> None:
    model = TensorEcho([("d", "FP64", [-1])])
    with Client(serve(model), model=MODEL, api="oip") as client:
        with pytest.raises(NotFound, match="knows no signatures, so not 'top_k'") as caught:
            client.infer({"d": [1.0]}, signature="top_k", timeout=20)
        assert caught.value.hint == "leave signature out"
        assert client.infer({"d": [1.0]}, signature="infer", timeout=20)["d"].tolist() == [1.0]


def test_a_type_that_no_request_can_carry(serve: Any) -> None:
    model = TensorEcho([("d", "FP8", [-1])])
    with (
        Client(serve(model), model=MODEL, api="oip") as client,
        pytest.raises(UsageError, match="of a type that no request can carry"),
    ):
        client.infer({"d": [1.0]}, timeout=20)


SCALED = Signature("scaled", (one("x", DType.FLOAT32, None),), (one("y", DType.FLOAT32, None),))


def test_signatures_of_tensorflow_serving(serve: Any) -> None:
    other = Signature("other", SCALED.inputs, SCALED.outputs)
    model = TfsModel((SCALED,), {"scaled": {"y": [0.5]}, "other": {"y": [1.5]}})
    with Client(serve(model), model=MODEL) as client:
        found = client.infer({"x": [1]}, timeout=20)
        assert (found["y"].tolist(), found.signature) == ([0.5], "scaled")
        assert found["y"].dtype == np.float32
        assert model.metadata_calls == 1
    model.signatures = (SCALED, other)
    with Client(serve(model), model=MODEL) as client:
        with pytest.raises(
            UsageError, match="several signatures, and none is serving_default: oth"
        ) as e:
            client.infer({"x": [1]}, timeout=20)
        assert e.value.hint == 'choose one, for example signature="other"'
        with pytest.raises(NotFound, match="has no signature 'scale'") as caught:
            client.infer({"x": [1]}, signature="scale", timeout=20)
        assert "did you mean scaled?" in str(caught.value.hint)
        assert client.infer({"x": [1]}, signature="other", timeout=20)["y"].tolist() == [1.5]


class Switching(TfsModel):
    """A server that has gone on to another version once two calls are on their way."""

    both: Barrier | None = None

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        if body and self.both is not None:
            self.both.wait(20)
        return super().rest_response(path, body, headers)

    def switch(self, version: int, dtype: DType, values: list[Any]) -> None:
        """Serve a version whose output has that type."""
        self.signatures = (Signature("s", SCALED.inputs, (one("y", dtype, None),)),)
        self.answers = {"s": {"y": values}}
        self.headers = {over_http(MODEL_VERSION): str(version)}


def test_each_of_several_calls_reads_its_answer_as_the_version_that_gave_it(over_rest: Any) -> None:
    # JSON of TensorFlow Serving has no types: a long id would be rounded as the float it was.
    model = Switching(())
    model.switch(7, DType.FLOAT32, [0.5])
    with Client(over_rest(model), model=MODEL, api="tfs") as client:
        assert client.infer({"x": [1]}, timeout=20)["y"].dtype == np.float32
        model.switch(8, DType.INT64, [2**53 + 1])
        model.both = Barrier(2)
        found = list(client.infer_many([{"x": [1]}] * 2, parallel=2, timeout=20))
    assert [(y["y"].dtype, y["y"].tolist()) for y in found] == [(np.int64, [2**53 + 1])] * 2


def test_an_answer_that_lacks_an_output_or_has_another_type(serve: Any) -> None:
    both = (*SCALED.outputs, one("z", DType.FLOAT32, None))
    model = TfsModel((Signature("two", SCALED.inputs, both),), {"two": {"y": [1.0], "w": [1.0]}})
    with (
        Client(serve(model), model=MODEL) as client,
        pytest.raises(InferenceFailed, match="not an answer with the output 'z'"),
    ):
        client.infer({"x": [1]}, timeout=20)


def over_rest_of_tfs(body: bytes, *outputs: TensorSpec, wanted: tuple[str, ...] = ()) -> Any:
    """What is made of the body of an answer of TensorFlow Serving."""
    answer = TfsRest().read_answer(Reply(body), is_bounded=False)
    return values_of(typed(answer.outputs, Signature("s", (), outputs), wanted))


def test_json_of_tensorflow_serving() -> None:
    read = over_rest_of_tfs
    y = one("y", DType.FLOAT32, None, None)
    np.testing.assert_array_equal(
        read(b'{"outputs": [[NaN, -Infinity, 1]]}', y)["y"], np.array([[NAN, -INF, 1]], np.float32)
    )
    assert read(b'{"outputs": []}', one("y", DType.FLOAT32, None, 3))["y"].shape == (0, 3)
    assert read(b'{"outputs": [[], []]}', y)["y"].shape == (2, 0)
    assert read(b'{"outputs": 5}', one("y", DType.INT64))["y"].tolist() == 5
    assert read(b'{"outputs": [9007199254740993]}', one("y", DType.INT64, None))["y"].tolist() == [
        2**53 + 1
    ]
    text = one("y", DType.BYTES, None)
    assert read(b'{"outputs": ["caf\xe9", {"b64": "/w=="}]}', text)["y"].tolist() == [
        b"caf\xe9",
        b"\xff",
    ]
    assert read(b'{"outputs": {"b64": "/w=="}}', one("y", DType.BYTES))["y"].tolist() == b"\xff"


@pytest.mark.parametrize(
    ("body", "dtype"),
    [
        (b'{"outputs": [1.5]}', DType.INT64),
        (b'{"outputs": [300]}', DType.INT8),
        (b'{"outputs": [1e39]}', DType.FLOAT32),
        (b'{"outputs": ["1"]}', DType.FLOAT32),
        (b'{"outputs": [1]}', DType.BYTES),
        (b'{"outputs": [2]}', DType.BOOL),
        (b'{"outputs": {"a": [1], "b": [2]}}', DType.INT64),
    ],
)
def test_json_that_does_not_fit_the_metadata_is_an_error(body: bytes, dtype: DType) -> None:
    with pytest.raises(Unreadable):
        over_rest_of_tfs(body, one("y", dtype, None))


def test_protobuf_of_tensorflow_serving() -> None:
    response = serving_pb2.PredictResponse()

    def add(name: str, dtype: DType, shape: list[int], **fields: Any) -> None:
        proto = response.outputs[name]
        proto.dtype = dtype.tf_number  # type: ignore[assignment]
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        for key, value in fields.items():
            if key == "tensor_content":
                proto.tensor_content = value
            else:
                getattr(proto, key).extend(value)

    add("content", DType.FLOAT32, [2], tensor_content=np.array([1.5, NAN], "<f4").tobytes())
    add("repeated", DType.INT32, [2, 2], int_val=[1, 7])
    add("half", DType.FLOAT16, [1], half_val=[0x3C00])
    add("complex", DType.COMPLEX64, [1], scomplex_val=[1.0, -2.0])
    add("text", DType.BYTES, [1, 2], string_val=[b"\xff", b""])
    add("empty", DType.FLOAT64, [0, 3])
    answer = TfsGrpc().read_answer(Reply(response.SerializeToString()), is_bounded=False)
    found = values_of(typed(answer.outputs, Signature("s", (), ()), ()))

    np.testing.assert_array_equal(found["content"], np.array([1.5, NAN], np.float32))
    assert found["repeated"].tolist() == [[1, 7], [7, 7]]
    assert (found["half"].dtype, found["half"].tolist()) == (np.float16, [1.0])
    assert found["complex"].tolist() == [1 - 2j]
    assert found["text"].tolist() == [[b"\xff", b""]]
    assert found["empty"].shape == (0, 3)


def test_more_values_than_an_answer_about_an_image_has(over_rest: Any) -> None:
    """What the caller has asked for may be large; a stranger's JSON has its limit all the same."""
    count = 1_200_000
    body = json.dumps({"outputs": [0] * count}).encode()
    assert over_rest_of_tfs(body, one("y", DType.INT8, None))["y"].shape == (count,)
    for read in (TfsRest().read_answer, OipRest().read_answer):
        with pytest.raises(Unreadable, match="JSON of at most 16777216 values"):
            read(Reply(b'{"outputs": [' + b"[]," * 2**23 + b"[]]}"), is_bounded=False)
    model = TensorEcho([("h", "INT8", [-1])], is_raw=False)
    with Client(over_rest(model), model=MODEL, api="oip", max_answer_bytes=1000) as client:
        client.infer({"h": np.zeros(10, np.int8)}, timeout=20)
        with pytest.raises(
            InferenceFailed, match="more than the 1000 bytes that this client reads"
        ):
            client.infer({"h": np.zeros(1000, np.int8)}, timeout=20)
