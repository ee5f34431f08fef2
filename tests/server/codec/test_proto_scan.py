"""The walk over the bytes of a message: what it counts, and that it reads what protobuf reads."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.message import Message

from mlserve.deadline import Deadline
from mlserve.errors import DeadlineExceeded, InputTooLarge, InvalidInput
from mlserve.server.codec import proto_scan
from mlserve.server.codec.proto_scan import TooManyFields, estimate, quick_estimate
from mlserve.wire.proto.framework_pb2 import TensorProto
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest, ReloadConfigRequest


def infer(**fields: Any) -> bytes:
    request = ModelInferRequest(model_name="m", **fields)
    return request.SerializeToString()


def test_what_is_at_its_limit_passes_and_one_more_does_not() -> None:
    most = proto_scan.MOST_NAMED
    assert estimate(b"\x2a\0" * most, ModelInferRequest)
    with pytest.raises(InputTooLarge, match=f"more than {most} entries of 'inputs' in all"):
        estimate(b"\x2a\0" * (most + 1), ModelInferRequest)


def test_a_list_is_counted_over_the_whole_request() -> None:
    """Each input may have a few parameters; not all of them many."""
    request = ModelInferRequest()
    for _ in range(10):
        parameters = request.inputs.add().parameters
        for number in range(proto_scan.MOST_NAMED // 10 + 1):
            parameters[str(number)].bool_param = True
    with pytest.raises(InputTooLarge, match="entries of 'parameters' in all"):
        estimate(request.SerializeToString(), ModelInferRequest)


SEVERAL = b"".join(
    bytes([tag]) + b"\x80\x80\x80\x03" + bytes(6 * 2**20) for tag in (0x3A, 0x52, 0x5A)
)
"""Six million numbers in each of three lists."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "data", "what"),
    [
        (TensorProto, b"\x42\0" * (2**20 + 1), "1048576 entries of 'string_val' in all"),
        (TensorProto, b"\x42\x01a\x42\0" * 2**20, "1048576 entries of 'string_val' in all"),
        (TensorProto, b"\x2d\0\0\0\0" * (2**20 + 1), "1048576 fields"),
        (TensorProto, b"\xf8\x0f\1" * (2**20 + 1), "1048576 fields"),
        (
            TensorProto,
            b"\x52\x81\x80\x80\x08" + b"\1" * (2**24 + 1),
            "16777216 entries of 'packed numbers of tensors' in all",
        ),
        (TensorProto, SEVERAL, "16777216 entries of 'packed numbers of tensors' in all"),
        (PredictRequest, b"\x1a\0" * 5000, "4096 entries of 'output_filter' in all"),
        (PredictRequest, b"\x0a\x84\x80\x04\x1a\x80\x80\x04" + b"s" * 2**16, None),
        (
            PredictRequest,
            b"\x0a\x85\x80\x04\x1a\x81\x80\x04" + b"s" * (2**16 + 1),
            "has 65537 bytes",
        ),
        (ReloadConfigRequest, b"\x0a\xd3\x0f\x0a\xd0\x0f" + b"\x0a\0" * 1000, None),
        (
            ReloadConfigRequest,
            b"\x0a\xd5\x0f\x0a\xd2\x0f" + b"\x0a\0" * 1001,
            "1000 entries of 'config' in all",
        ),
    ],
)
def test_limits(kind: type[Message], data: bytes, what: str | None) -> None:
    if what is None:
        assert estimate(data, kind) >= len(data)
        return
    with pytest.raises(InputTooLarge) as refused:
        estimate(data, kind)
    assert what in refused.value.message


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x0a", "it ends early"),
        (b"\x0a\x05abc", "at byte 2, a field runs over the end"),
        (b"\x2a\x02\x0a\x05abcde", "at byte 4, a field runs over the end"),
        (b"\xff" * 11, "at byte 0, a number has more than 64 bits"),
        (b"\xaa\x80\x80\x80\x10\x00", "at byte 5, a field's number is too large"),
        (b"\x0b\x0c", "at byte 1, a field has the wire type 3"),
    ],
)
def test_what_is_not_a_message(data: bytes, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        estimate(data, ModelInferRequest)
    assert refused.value.message == f"the request is not a valid inference.ModelInferRequest: {why}"


def test_the_estimate_is_of_the_size_of_what_is_made() -> None:
    image = infer(raw_input_contents=[b"x" * 65536])
    assert len(image) < estimate(image, ModelInferRequest) < len(image) + 1000
    strings = TensorProto(string_val=[b"ab"] * 10_000).SerializeToString()
    assert estimate(strings, TensorProto) >= 10_000 * 64
    numbers = TensorProto(int64_val=[1] * 10_000).SerializeToString()
    assert 10_000 * 16 <= estimate(numbers, TensorProto) <= 10_000 * 32


def test_numbers_one_by_one_are_counted_too() -> None:
    one_by_one = b"".join(b"\x2d" + bytes(4) for _ in range(1000))
    packed = TensorProto(float_val=[0.0] * 1000).SerializeToString()
    assert TensorProto.FromString(one_by_one) == TensorProto.FromString(packed)
    assert estimate(one_by_one, TensorProto) - len(one_by_one) == 1000 * 12
    assert estimate(packed, TensorProto) - len(packed) == 1000 * 12


def test_a_walk_of_few_fields_ends_when_they_are_spent() -> None:
    assert quick_estimate(infer(), ModelInferRequest, 1)
    for data in (b"\x1a\0" * 3, b"\x3a\0" * 10_000, b"\x2a\0" * 3):
        with pytest.raises(TooManyFields):
            quick_estimate(data, ModelInferRequest, 2)


def test_the_deadline_is_looked_at_on_the_way() -> None:
    deadline = Deadline.at_most(0, 30)
    with pytest.raises(DeadlineExceeded):
        estimate(b"\xf8\x0f\1" * 100_000, ModelInferRequest, deadline)


@pytest.mark.alone
def test_it_is_linear() -> None:
    """Twice the fields take about twice the time."""

    def seconds(count: int) -> float:
        data = b"\xf8\x0f\1" * count
        started = time.thread_time()
        estimate(data, ModelInferRequest)
        return time.thread_time() - started

    small = min(seconds(50_000) for _ in range(3))
    large = min(seconds(500_000) for _ in range(3))
    assert large < 25 * small
