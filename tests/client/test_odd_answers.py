"""Answers that are no answers: whatever JSON comes is read, or named as what it is not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from mlserve.client import Client
from mlserve.client.adapter import ModelRef, Reply, number_of
from mlserve.client.codecs import MOST_VALUES, parse_json
from mlserve.client.oip import raw_output, with_classes
from mlserve.client.oip_grpc import OipGrpc
from mlserve.client.oip_rest import OipRest
from mlserve.client.protobuf import MOST_FIELDS, parse_message
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.client.tfs_grpc import TfsGrpc
from mlserve.client.tfs_rest import TfsRest
from mlserve.errors import InferenceFailed, bounded
from mlserve.tensors import DType
from mlserve.wire.proto import framework_pb2, inference_pb2, serving_pb2
from tests.harness.faulty import answering

KEYS = (
    *("outputs", "name", "datatype", "shape", "data", "parameters", "binary_data_size", "b64"),
    *("model_version_status", "version", "state", "status", "error_message", "model_version"),
    *("metadata", "signature_def", "inputs", "dtype", "tensor_shape", "dim", "size", "versions"),
    *("model_spec", "unknown_rank", "signatures", "extensions", "ready", "labels", "scores"),
)
LEAVES = (None, True, -1, 0, 3, 2**70, 1e308, float("inf"), float("nan"), "", "x", "9" * 5000)
READ: tuple[Callable[[Reply], object], ...] = (
    TfsRest().read_answer,
    TfsRest().read_status,
    lambda reply: TfsRest().read_metadata(ModelRef("m", None), reply),
    OipRest().read_answer,
    OipRest().read_versions,
    OipRest().read_about,
    OipRest().read_ready,
    lambda reply: OipRest().read_metadata(ModelRef("m", None), reply),
)


def value(chance: random.Random, depth: int) -> Any:
    """Some JSON made of the keys that the protocols use, and of what does not belong there."""
    kind = chance.random() if depth else 1.0
    if kind < 0.55:
        keys = chance.sample(KEYS, chance.randint(1, 6))
        return {key: value(chance, depth - 1) for key in keys}
    if kind < 0.8:
        return [value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return chance.choice([*LEAVES, "DT_STRING", "BYTES", "FP32", "AVAILABLE"])


def test_json_of_any_shape_is_read_or_named() -> None:
    chance = random.Random(12)
    for _ in range(400):
        body = json.dumps({"outputs": value(chance, 2), **value_object(chance)}).encode()
        for read in READ:
            try:
                read(Reply(body))
            except Unreadable as error:
                assert len(str(error)) < 3000  # noqa: PT017


def value_object(chance: random.Random) -> dict[str, Any]:
    return {key: value(chance, 2) for key in chance.sample(KEYS, 12)}


@pytest.mark.parametrize(
    "body",
    [
        {"model_version_status": [{"version": float("inf"), "state": "AVAILABLE"}]},
        {"model_version_status": [{"version": "9" * 5000, "state": "AVAILABLE"}]},
    ],
    ids=["no number", "too many digits"],
)
def test_a_version_that_no_number_holds_is_named(body: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match="not the status of a model"):
        TfsRest().read_status(Reply(json.dumps(body).encode()))


@pytest.mark.parametrize("text", ["9" * 20, "9" * 10_000, "-1", "١", "", "1.0", "x"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert number_of(text) is None


@pytest.mark.server
@pytest.mark.parametrize(
    "header", ["Inference-Header-Content-Length", "x-mlserve-model-version", "Retry-After"]
)
@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_a_header_of_10000_digits_is_no_traceback(faulty: Any, header: str, status: str) -> None:
    body = b'{"outputs": ["sorrel"]}'
    head = f"HTTP/1.1 {status}\r\n{header}: {'9' * 10_000}\r\nContent-Length: {len(body)}\r\n\r\n"
    with Client(
        f"http://{faulty(answering(head.encode() + body))}", model="m", api="tfs"
    ) as client:
        try:
            assert client.predict(b"x", timeout=5).version is None
        except Exception as error:  # noqa: BLE001 - any error of ours is as good
            assert type(error).__module__.startswith("mlserve.")  # noqa: PT017
            assert len(str(error)) < 3000  # noqa: PT017


def test_a_class_whose_index_is_no_number_stays_a_label() -> None:
    classes = {"scores": Tensor((1, 1), (f"0.5:{'9' * 5000}:sorrel",))}
    assert with_classes(classes, "scores") == classes


def test_a_million_values_of_json_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(Unreadable, match=f"not JSON of at most {MOST_VALUES} values"):
        parse_json(b'{"outputs": [' + b"1," * MOST_VALUES + b"1]}")
    assert parse_json(json.dumps({"outputs": ["a, b"] * 1000}).encode())


def test_many_fields_of_protobuf_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(Unreadable, match=f"GetModelStatusResponse of at most {MOST_FIELDS} fields"):
        parse_message(serving_pb2.GetModelStatusResponse, b"\x0a\x00" * (MOST_FIELDS + 1))
    dims = b"\x12\x00" * (MOST_FIELDS + 1)  # of TensorShapeProto
    tensor = b"\x12" + _varint(len(dims)) + dims
    entry = b"\x0a\x01a\x12" + _varint(len(tensor)) + tensor
    with pytest.raises(Unreadable, match="of at most"):
        parse_message(serving_pb2.PredictResponse, b"\x0a" + _varint(len(entry)) + entry)
    packed = b"\x3a" + b"\x80\x80\x80\x08" + bytes(2**24)  # int_val of 16 MiB
    with pytest.raises(Unreadable, match="of at most"):
        parse_message(framework_pb2.TensorProto, packed)


def _varint(number: int) -> bytes:
    """A number as protobuf writes it, in four bytes."""
    low = bytes(number >> shift & 0x7F | 0x80 for shift in (0, 7, 14))
    return low + bytes([number >> 21])


def test_a_large_answer_that_is_cut_off_is_named() -> None:
    whole = serving_pb2.PredictResponse()
    whole.outputs["labels"].string_val.extend([b"sorrel"] * 50_000)
    data = whole.SerializeToString()
    assert parse_message(serving_pb2.PredictResponse, data) == whole
    for cut in (data[:-1], data[: len(data) // 2], data + b"\xff", b"\xff" * 30_000_000):
        with pytest.raises(Unreadable, match="a PredictResponse"):
            parse_message(serving_pb2.PredictResponse, cut)


def test_an_answer_with_other_values_than_its_shape_says_is_named_before_they_are_made() -> None:
    tensor = framework_pb2.TensorProto(dtype=DType.FLOAT32.tf_number, float_val=[1.0] * 100_000)
    tensor.tensor_shape.dim.add(size=1)
    answer = serving_pb2.PredictResponse(outputs={"a": tensor})
    for changed in (answer, _as_content(answer)):
        with pytest.raises(Unreadable):
            TfsGrpc().read_answer(Reply(changed.SerializeToString()))
    oip = inference_pb2.ModelInferResponse()
    output = oip.outputs.add(name="a", datatype="INT64", shape=[1])
    output.contents.int64_contents.extend([1] * 100_000)
    with pytest.raises(Unreadable):
        OipGrpc().read_answer(Reply(oip.SerializeToString()))
    with pytest.raises(Unreadable, match="2 values"):
        raw_output("a", "BYTES", (1,), bytes(4_000_000), MOST_VALUES)


def _as_content(answer: serving_pb2.PredictResponse) -> serving_pb2.PredictResponse:
    tensor = answer.outputs["a"]
    tensor.tensor_content = bytes(4 * len(tensor.float_val))
    del tensor.float_val[:]
    return answer


def test_lists_in_lists_are_read_in_time_linear_in_them() -> None:
    deep = [1]
    for _ in range(400):
        deep = [*deep[:1], deep]
    data = {"outputs": [{"name": "a", "datatype": "INT64", "shape": [401], "data": deep}]}
    answer = OipRest().read_answer(Reply(json.dumps(data).encode()))
    assert len(answer.outputs["a"].values) == 401


def test_the_text_of_a_stranger_is_cut_before_it_is_looked_at() -> None:
    text = "first\n" + "\n" * 50_000_000 + "last"
    assert bounded(text) == "first last"
    assert len(bounded("x" * 50_000_000)) < 700


def test_scores_that_are_no_numbers_are_named(faulty: Any) -> None:
    body = json.dumps({"outputs": {"labels": [["a"]], "scores": [[10**4000]]}}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with (
        Client(f"http://{faulty(answering(head + body))}", model="m", api="tfs") as client,
        pytest.raises(InferenceFailed) as failed,
    ):
        client.predict(b"x", timeout=5)
    assert len(failed.value.message) < 3000
