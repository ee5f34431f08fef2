"""The readers of requests: any bytes are a request that can be run, or refused in our own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlserve_echo import signatures

from mlserve.deadline import Deadline
from mlserve.errors import ExitCode, InputTooLarge, InvalidInput, MlserveError
from mlserve.server.codec.proto_reader import parse
from mlserve.server.codec.proto_scan import estimate
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.listen.http_body import content_of, text_of
from mlserve.server.message import Headers
from mlserve.server.oip import grpc as oip_grpc
from mlserve.server.oip import json_body as oip_json
from mlserve.server.tensors import find_signature
from mlserve.server.tfs import grpc as tfs_grpc
from mlserve.server.tfs import json_tensors
from mlserve.server.tfs.tensor_proto import from_array
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.proto.inference_pb2 import ModelInferRequest
from mlserve.wire.proto.serving_pb2 import PredictRequest

pytestmark = pytest.mark.server

PROFILE = settings.get_profile("fuzz")
SETTINGS = ServerSettings(max_request_bytes=100_000, max_batch_length=100, max_pixels=10_000)
SIGNATURES = {signature.name: signature for signature in signatures()}
NAMES = tuple(SIGNATURES)
LENGTH = JSON_LENGTH.title()


def fuzz(reads: Callable[[Any], None], values: st.SearchStrategy[Any]) -> None:
    """Reads each value, and lets through whatever is no refusal of the client's fault."""

    def check(value: Any) -> None:
        try:
            reads(value)
        except MlserveError as error:
            if error.exit_code is not ExitCode.USAGE:
                raise

    settings(PROFILE)(given(values)(check))()


def read_message(kind: Any, data: bytes) -> Any:
    """What is a message to the walk over its bytes is one to protobuf, and the other way round.

    But for groups, which nothing here has.
    """
    try:
        estimate(data, kind)
    except InputTooLarge:
        raise
    except InvalidInput as refused:
        if "wire type" not in refused.message and "levels deep" not in refused.message:
            with pytest.raises(InvalidInput):
                parse(kind, data)
        raise
    return parse(kind, data)


def read_tfs_grpc(data: bytes) -> None:
    request = read_message(PredictRequest, data)
    signature = find_signature(SIGNATURES, request.model_spec.signature_name)
    tfs_grpc.check_outputs(signature, request.output_filter)
    check_arrays(signature, tfs_grpc.read_inputs(signature, request, SETTINGS))


def read_oip_grpc(data: bytes) -> None:
    asked = oip_grpc.read_request(read_message(ModelInferRequest, data))
    asked.sooner(Deadline.after(1))
    asked.hints()
    check_arrays(*asked.decode(SIGNATURES, SETTINGS))


def read_tfs_rest(sent: tuple[bytes, dict[str, str]]) -> None:
    body, headers = sent
    text = text_of(content_of(body, Headers.of(headers), SETTINGS.max_request_bytes))
    content = parse_body(text, max_depth=SETTINGS.max_json_depth)
    name = content.get("signature_name", "")
    signature = find_signature(SIGNATURES, name if isinstance(name, str) else "")
    inputs = json_tensors.read_inputs(signature, content, SETTINGS)
    check_arrays(signature, inputs)


def read_oip_rest(sent: tuple[bytes, dict[str, str]]) -> None:
    body, headers = sent
    oip_json.is_small(body, Headers.of(headers))
    asked = oip_json.read_request(body, Headers.of(headers), SETTINGS)
    asked.sooner(Deadline.after(1))
    asked.hints()
    check_arrays(*asked.decode(SIGNATURES, SETTINGS))


def check_arrays(signature: Signature, inputs: Any) -> None:
    assert set(inputs) == {spec.name for spec in signature.inputs}
    for array in inputs.values():
        assert isinstance(array, np.ndarray)


def tfs_messages() -> list[bytes]:
    """A valid request for each signature."""
    found = []
    for name, signature in SIGNATURES.items():
        request = PredictRequest()
        request.model_spec.name = "m"
        request.model_spec.signature_name = name
        request.model_spec.version.value = 1
        for spec in signature.inputs:
            value: Any = np.ones(2, np.int8)
            if spec.dtype is DType.BYTES:
                value = np.array([b"x", b""], object)
            request.inputs[spec.name].CopyFrom(from_array(value, spec.dtype))
        found.append(request.SerializeToString())
    return found


def oip_messages() -> list[bytes]:
    found = []
    for data in ({"bytes_contents": [b"x", b"y"]}, {"fp32_contents": [1.0, 2.0]}):
        request = ModelInferRequest(model_name="m", model_version="1", id="7")
        is_bytes = "bytes_contents" in data
        request.parameters["signature"].string_param = "top_k" if is_bytes else "slow"
        request.parameters["timeout"].int64_param = 5
        name = "image" if is_bytes else "seconds"
        tensor = request.inputs.add(
            name=name, datatype="BYTES" if is_bytes else "FP32", shape=[2], contents=data
        )
        found.append(request.SerializeToString())
        tensor.ClearField("contents")
        request.raw_input_contents.append(b"\1\0\0\0x\0\0\0\0" if is_bytes else bytes(8))
        if is_bytes:
            request.outputs.add(name="labels").parameters["classification"].int64_param = 2
        found.append(request.SerializeToString())
    return found


TFS_BODIES: list[Any] = [
    {"signature_name": "top_k", "instances": [{"image": {"b64": "AAAA"}}, {"image": "x"}]},
    {"inputs": {"a": [1, 2.5, 3], "b": [1, 2, 3]}, "signature_name": "two"},
    {"inputs": [[1, -2], [3, 4]], "signature_name": "identity_int8"},
]
OIP_BODIES: list[Any] = [
    {
        "id": "7",
        "parameters": {"signature": "top_k", "timeout": 1000, "binary_data_output": True},
        "inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]}],
        "outputs": [{"name": "labels", "parameters": {"classification": 2}}],
    },
    {
        "parameters": {"signature": "slow"},
        "inputs": [
            {
                "name": "seconds",
                "shape": [2],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 8},
            }
        ],
    },
]
KEYS = (
    *("signature_name", "instances", "inputs", "b64", "x", "image", "a", "b", "seconds", "id"),
    *("parameters", "outputs", "name", "shape", "datatype", "data", "signature", "timeout"),
    *("binary_data_size", "binary_data_output", "binary_data", "classification"),
)
WORDS = (*KEYS, *NAMES, "BYTES", "FP32", "INT64", "BOOL", "FP16", "BF16", "AAAA", "=", "1e999")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from((2**31, 2**63, 2**64, -(2**63) - 1, 10**400)),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.sampled_from((LENGTH.lower(), "content-encoding", "content-type")),
    st.sampled_from(("0", "5", "100", "-1", "9" * 30, "x", "²", "gzip", "identity", "")),
    max_size=2,
)


@st.composite
def bodies(draw: Any, whole: list[Any], keys: str) -> bytes:
    """A valid body with some of its parts in exchange for others."""
    body = json.loads(json.dumps(draw(st.sampled_from(whole))))
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(body))
        holder, key = draw(st.sampled_from(places))
        holder[key] = draw(VALUES)
    if draw(st.booleans()):
        body[keys] = draw(VALUES)
    return json.dumps(body).encode() + draw(st.binary(max_size=12))


def _places(value: Any) -> Any:
    """Each (object or list, key) below the value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _dumped(values: list[Any]) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


def sent(body: st.SearchStrategy[bytes]) -> st.SearchStrategy[Any]:
    return st.tuples(body, HEADERS) | st.tuples(body, st.just({}))


@pytest.mark.parametrize(
    ("reads", "messages"), [(read_tfs_grpc, tfs_messages()), (read_oip_grpc, oip_messages())]
)
def test_messages(reads: Any, messages: list[bytes], mutations: Any) -> None:
    for message in messages:
        reads(message)
    fuzz(reads, mutations(messages) | st.binary(max_size=100))


@pytest.mark.parametrize(
    ("reads", "whole", "key"),
    [(read_tfs_rest, TFS_BODIES, "inputs"), (read_oip_rest, OIP_BODIES, "inputs")],
)
def test_bodies(reads: Any, whole: list[Any], key: str, mutations: Any) -> None:
    other = VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100)
    fuzz(reads, sent(bodies(whole, key) | mutations(_dumped(whole)) | other))


@st.composite
def tensor_messages(draw: Any) -> bytes:
    """A PredictRequest whose tensor's fields do not go together."""
    request = PredictRequest()
    request.model_spec.signature_name = draw(st.sampled_from(NAMES))
    tensor = request.inputs[draw(st.sampled_from(("x", "image", "a", "seconds")))]
    tensor.dtype = draw(st.integers(0, 140))
    for size in draw(st.lists(st.sampled_from((0, 1, 2, 3, 7, -1, 2**31, 2**62)), max_size=4)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.booleans())
    tensor.tensor_content = draw(st.binary(max_size=16))
    tensor.half_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
    tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
    tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    tensor.string_val.extend(draw(st.lists(st.binary(max_size=4), max_size=3)))
    return bytes(request.SerializeToString())


def test_tensors_that_do_not_fit_together() -> None:
    fuzz(read_tfs_grpc, tensor_messages())


@st.composite
def infer_messages(draw: Any) -> bytes:
    """A ModelInferRequest whose tensor's fields do not go together."""
    request = ModelInferRequest(model_name="m", id=draw(st.text(max_size=3)))
    request.parameters["signature"].string_param = draw(st.sampled_from(NAMES))
    for _ in range(draw(st.integers(0, 2))):
        tensor = request.inputs.add(
            name=draw(st.sampled_from(("x", "image", "seconds"))),
            datatype=draw(st.sampled_from(("BYTES", "FP32", "FP16", "INT8", "UINT64", "BOOL", ""))),
            shape=draw(st.lists(st.sampled_from((0, 1, 2, 3, -1, 2**62)), max_size=4)),
        )
        tensor.contents.int_contents.extend(draw(st.lists(st.integers(-300, 300), max_size=3)))
        tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=3), max_size=3)))
        tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=12), max_size=2)))
    if draw(st.booleans()):
        output = request.outputs.add(name=draw(st.sampled_from(("labels", "y", ""))))
        output.parameters["classification"].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    return bytes(request.SerializeToString())


def test_infer_tensors_that_do_not_fit_together() -> None:
    fuzz(read_oip_grpc, infer_messages())
