"""Hostile gRPC requests: small messages that are disproportionately expensive for a naive parser.

    from attacks_grpc import ATTACKS
    for name, attack in ATTACKS.items():
        attack("127.0.0.1:8500")  # raises AssertionError for an answer that is not a refusal

Each is one call of at most 64 MiB. Those with tensor values call the first model that the server
lists, for the signature and input of an image classifier (`image`, bytes[N]).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial

import grpc

from mlserve.wire.proto.inference_extensions_pb2 import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
INFERENCE = "/inference.GRPCInferenceService/"
INFER = INFERENCE + "ModelInfer"

TIMEOUT = 30.0
"""Seconds after which a call counts as not refused."""
MILLION = 1_000_000
_FLOAT, _STRING, _INT64 = 1, 7, 9
_BYTES_TENSOR = b"BYTES"

Attack = Callable[[str], None]


def varint(value: int) -> bytes:
    """Encode the number as a protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: bytes | int) -> bytes:
    """Encode a field of a message: a number, or anything that has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def many(number: int, count: int, make: Callable[[int], bytes] = lambda _: b"") -> bytes:
    """Encode a field `count` times, each with its own content."""
    return b"".join(field(number, make(index)) for index in range(count))


def shape(*sizes: int) -> bytes:
    """Encode a TensorShapeProto."""
    return b"".join(field(2, field(1, size)) for size in sizes)


def predict(model: str, tensor: bytes, *, name: str = "image") -> bytes:
    """Encode a PredictRequest with one input, a TensorProto."""
    entry = field(1, name.encode()) + field(2, tensor)
    return field(1, field(1, model.encode())) + field(2, entry)


def infer(model: str, contents: bytes, *sizes: int) -> bytes:
    """Encode a ModelInferRequest with one input of bytes."""
    told = field(1, b"image") + field(2, _BYTES_TENSOR) + field(3, b"".join(map(varint, sizes)))
    return field(1, model.encode()) + field(5, told + field(5, contents))


def asks_infer(model: str, rest: bytes) -> bytes:
    """Encode a ModelInferRequest for that model, with those fields."""
    return field(1, model.encode()) + rest


def asks_predict(model: str, rest: bytes) -> bytes:
    """Encode a PredictRequest for that model, with those fields."""
    return field(1, field(1, model.encode())) + rest


def string_tensor(values: bytes, *sizes: int) -> bytes:
    """Encode a TensorProto of strings."""
    return field(1, _STRING) + field(2, shape(*sizes)) + values


def black_png(width: int, height: int) -> bytes:
    """Make a black grey-scale PNG: 12 kB for 10,000 x 10,000 pixels of one bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def models(names: Iterable[str], path: str = "/nowhere") -> bytes:
    """Encode a ReloadConfigRequest with those models."""
    listed = b"".join(field(1, field(1, name.encode()) + field(2, path.encode())) for name in names)
    return field(1, field(1, listed))


def _refused(method: str, make: Callable[[str], bytes], codes: Iterable[str], address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        request = make(_model_of(channel))
        try:
            channel.unary_unary(method)(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            code, told = error.code().name, error.details() or ""
            assert code in codes, f"{code}: {told[:300]}"
            assert len(told) < 2000, f"an answer of {len(told)} characters"
            return
    raise AssertionError(f"{method} answered {len(request)} bytes that it should refuse")


def _model_of(channel: grpc.Channel) -> str:
    index = channel.unary_unary(
        INFERENCE + "RepositoryIndex",
        request_serializer=RepositoryIndexRequest.SerializeToString,
        response_deserializer=RepositoryIndexResponse.FromString,
    )
    return str(index(RepositoryIndexRequest(), timeout=TIMEOUT).models[0].name)


def _attack(method: str, make: Callable[[str], bytes], *more_codes: str) -> Attack:
    return partial(_refused, method, make, ("INVALID_ARGUMENT", *more_codes))


def _always(data: Callable[[], bytes]) -> Callable[[str], bytes]:
    return lambda _: data()


_OVERLOADED = "RESOURCE_EXHAUSTED"
_CONTROLLED = ("PERMISSION_DENIED", "UNIMPLEMENTED")

ATTACKS: dict[str, Attack] = {
    # A million of everything that becomes an object.
    "inputs": _attack(INFER, lambda m: asks_infer(m, many(5, MILLION))),
    "3 million inputs": _attack(INFER, lambda m: asks_infer(m, many(5, 3 * MILLION))),
    "outputs": _attack(INFER, lambda m: asks_infer(m, many(6, MILLION))),
    "raw contents": _attack(INFER, lambda m: asks_infer(m, many(7, MILLION))),
    "parameters": _attack(
        INFER, lambda m: asks_infer(m, many(4, MILLION, lambda i: field(1, b"%06x" % i)))
    ),
    "parameters of one input": _attack(
        INFER, lambda m: asks_infer(m, field(5, many(4, MILLION, lambda i: field(1, b"%06x" % i))))
    ),
    "named tensors": _attack(
        PREDICT,
        lambda m: asks_predict(m, many(2, MILLION, lambda i: field(1, b"%06x" % i) + b"\x12\0")),
    ),
    "output filters": _attack(PREDICT, lambda m: asks_predict(m, many(3, MILLION))),
    "metadata fields": _attack(METADATA, lambda m: asks_predict(m, many(2, MILLION))),
    "dimensions": _attack(
        PREDICT, lambda m: predict(m, field(1, _FLOAT) + field(2, many(2, MILLION)))
    ),
    "sizes": _attack(INFER, lambda m: infer(m, b"", *[1] * MILLION)),
    "parameters of a load": _attack(
        INFERENCE + "RepositoryModelLoad",
        _always(lambda: many(3, MILLION, lambda i: field(1, b"%06x" % i))),
        *_CONTROLLED,
    ),
    # Values: very many, in expensive encodings, or repeated.
    "empty strings": _attack(
        PREDICT, lambda m: predict(m, string_tensor(b"\x42\0" * 2 * MILLION, 2 * MILLION))
    ),
    "a million short strings": _attack(INFER, lambda m: infer(m, b"\x42\x02ab" * MILLION, MILLION)),
    "numbers one by one": _attack(
        PREDICT,
        lambda m: predict(
            m, field(1, _FLOAT) + field(2, shape(12 * MILLION)) + b"\x2d\0\0\0\0" * 12 * MILLION
        ),
        _OVERLOADED,
    ),
    "small numbers, packed": _attack(
        PREDICT,
        lambda m: predict(
            m, field(1, _INT64) + field(2, shape(60 * MILLION)) + field(10, b"\1" * 60 * MILLION)
        ),
        _OVERLOADED,
    ),
    "a value repeated to 2**31": _attack(
        PREDICT,
        lambda m: predict(m, field(1, _FLOAT) + field(2, shape(2**31)) + field(5, b"\0" * 4)),
    ),
    "sizes that overflow": _attack(
        PREDICT,
        lambda m: predict(
            m, field(1, _FLOAT) + field(2, shape(*[2**62] * 250)) + field(5, b"\0" * 4)
        ),
    ),
    "a large string repeated": _attack(
        PREDICT,
        lambda m: predict(m, string_tensor(field(8, bytes(2**20)), 1024)),
        _OVERLOADED,
    ),
    "an image repeated": _attack(
        PREDICT, lambda m: predict(m, string_tensor(field(8, black_png(10_000, 10_000)), 8))
    ),
    # Unknown fields, or fields that override each other.
    "unknown fields": _attack(STATUS, _always(lambda: b"\xf8\x0f\1" * 3 * MILLION)),
    "the same field again": _attack(INFER, lambda m: asks_infer(m, b"\x1a\1a" * 3 * MILLION)),
    "the same message again": _attack(STATUS, _always(lambda: b"\x0a\0" * 3 * MILLION)),
    "groups in groups": _attack(STATUS, _always(lambda: b"\xfb\x0f" * MILLION)),
    "a number without an end": _attack(STATUS, _always(lambda: b"\xff" * 60 * MILLION)),
    # Texts.
    "a long signature name": _attack(
        PREDICT, lambda m: field(1, field(1, m.encode()) + field(3, b"s" * 60 * MILLION))
    ),
    "a long id": _attack(INFER, lambda m: asks_infer(m, field(3, b"i" * 60 * MILLION))),
    "long names": _attack(PREDICT, lambda m: predict(m, b"", name="n" * 60 * MILLION)),
    # Loading other models; a server without model control refuses that.
    "5,000 models": _attack(
        RELOAD, _always(lambda: models(f"m{n}" for n in range(5000))), *_CONTROLLED
    ),
    "a forged line": _attack(
        RELOAD, _always(lambda: models(["m\n2026-01-01T00:00:00Z INFO all is well"])), *_CONTROLLED
    ),
    "an escape sequence": _attack(RELOAD, _always(lambda: models(["\x1b[2Jm"])), *_CONTROLLED),
    "a NUL in a path": _attack(RELOAD, _always(lambda: models(["m"], "/a\0b")), *_CONTROLLED),
}
"""The attacks by name: each makes one call, and raises AssertionError unless it is refused."""
