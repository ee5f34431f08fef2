"""The Open Inference Protocol's gRPC API of a real server, spoken with our own messages."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import pytest

from mlserve.wire.proto import inference_pb2
from mlserve.wire.proto.inference_pb2 import InferTensorContents, ModelInferRequest
from tests.harness.echo import manifest

SERVICE = "/inference.GRPCInferenceService/"
TYPED = {
    "BOOL": ("bool", "bool_contents", [True, False]),
    "INT8": ("int8", "int_contents", [-128, 127]),
    "INT16": ("int16", "int_contents", [-(2**15), 1]),
    "INT32": ("int32", "int_contents", [-(2**31), 1]),
    "INT64": ("int64", "int64_contents", [-(2**63), 1]),
    "UINT8": ("uint8", "uint_contents", [0, 255]),
    "UINT16": ("uint16", "uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint32", "uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64", "uint64_contents", [0, 2**64 - 1]),
    "FP32": ("float32", "fp32_contents", [0.5, float("inf")]),
    "FP64": ("float64", "fp64_contents", [0.1, float("-inf")]),
    "BYTES": ("bytes", "bytes_contents", ["é".encode(), b"\xff\0"]),
}


@pytest.fixture
def ask(server: Any, channel_to: Any) -> Any:
    """Calls a method other than ModelInfer: `ask("ModelReady", name="m")`."""

    def call(method: str, metadata: Any = (), **fields: Any) -> Any:
        request = getattr(inference_pb2, f"{method}Request")
        return (
            channel_to(server)
            .unary_unary(
                SERVICE + method,
                request_serializer=request.SerializeToString,
                response_deserializer=getattr(inference_pb2, f"{method}Response").FromString,
            )
            .future(request(**fields), metadata=metadata, timeout=20)
        )

    return call


def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError):
        call.result()
    return call.code(), call.details()


def request_of(signature: str = "", timeout: int | None = None, **fields: Any) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m", **fields)
    if signature:
        request.parameters["signature"].string_param = signature
    if timeout is not None:
        request.parameters["timeout"].int64_param = timeout
    return request


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    kind = ModelInferRequest.InferInputTensor
    item = kind(name=name, datatype=datatype, shape=shape)
    if contents:
        item.contents.CopyFrom(InferTensorContents(**contents))
    return item


def image(*files: bytes) -> Any:
    return tensor("image", "BYTES", [len(files)], bytes_contents=files)


def test_health_and_server(ask: Any) -> None:
    assert ask("ServerLive").result().live is True
    assert ask("ServerReady").result().ready is True
    assert ask("ModelReady", name="m").result().ready is True
    assert ask("ModelReady", name="m", version="7").result().ready is True
    answer = ask("ServerMetadata").result()
    assert answer.name == "mlserve"
    assert {"classification", "statistics"} <= set(answer.extensions)


def test_models_that_are_not_there(ask: Any) -> None:
    for fields in ({"name": "other"}, {"name": "m", "version": "8"}, {"name": "m", "version": "x"}):
        assert ask("ModelReady", **fields).result().ready is False
        assert failure(ask("ModelMetadata", **fields))[0] is grpc.StatusCode.NOT_FOUND


def test_metadata(ask: Any) -> None:
    call = ask("ModelMetadata", name="m")
    answer = call.result()
    assert (answer.name, list(answer.versions), answer.platform) == ("m", ["7"], "mlserve_echo")
    (given,) = answer.inputs
    assert (given.name, given.datatype, list(given.shape)) == ("image", "BYTES", [-1])
    assert [output.name for output in answer.outputs] == ["output_0"]
    said = dict(call.initial_metadata())
    assert said["mlserve-signature"] == "serving_default"
    assert "top_k" in said["mlserve-signatures"].split(",")


def test_metadata_of_another_signature(ask: Any) -> None:
    call = ask("ModelMetadata", (("mlserve-signature", "top_k"),), name="m")
    shapes = {output.name: list(output.shape) for output in call.result().outputs}
    assert shapes == {"labels": [-1, 5], "scores": [-1, 5], "indices": [-1, 5]}


def test_the_label(server: Any, infer_on: Any) -> None:
    call = infer_on(server, request_of(id="42", model_version="7", inputs=[image(b"x", b"y")]))
    response = call.result()
    assert (response.model_name, response.model_version, response.id) == ("m", "7", "42")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output_0", "BYTES", [2])
    assert list(output.contents.bytes_contents) == [b"sorrel", b"sorrel"]
    assert not response.raw_output_contents
    assert "mlserve-random-weights" not in dict(call.initial_metadata())


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents(server: Any, infer_on: Any, datatype: str) -> None:
    label, field, values = TYPED[datatype]
    item = tensor("x", datatype, [2, 1], **{field: values})
    (output,) = infer_on(server, request_of(f"identity_{label}", inputs=[item])).result().outputs
    assert (output.datatype, list(output.shape)) == (datatype, [2, 1])
    assert list(getattr(output.contents, field)) == values


@pytest.mark.parametrize(
    ("signature", "datatype", "data"),
    [
        ("identity_float16", "FP16", b"\0\x3c\0\x7e"),
        ("identity_bfloat16", "BF16", b"\x80\x3f\xc0\x7f"),
        ("identity_int64", "INT64", struct.pack("<qq", 1, -1)),
        ("identity_bool", "BOOL", b"\0\1"),
        ("identity_bytes", "BYTES", b"\0\0\0\0" + b"\2\0\0\0\xff\0"),
    ],
)
def test_raw_contents(
    server: Any, infer_on: Any, signature: str, datatype: str, data: bytes
) -> None:
    item = tensor("x", datatype, [2])
    request = request_of(signature, inputs=[item], raw_input_contents=[data])
    response = infer_on(server, request).result()
    assert list(response.raw_output_contents) == [data]
    assert not response.outputs[0].HasField("contents")


def test_some_outputs_in_the_order_that_was_asked(server: Any, infer_on: Any) -> None:
    values = [tensor(name, "FP32", [1], fp32_contents=[3.0]) for name in "ab"]
    kind = ModelInferRequest.InferRequestedOutputTensor
    for names in (["product"], ["product", "sum"]):
        wanted = [kind(name=name) for name in names]
        response = infer_on(server, request_of("two", inputs=values, outputs=wanted)).result()
        assert [output.name for output in response.outputs] == names


def test_classification(server: Any, infer_on: Any) -> None:
    request = request_of(inputs=[image(b"x")])
    request.outputs.add(name="output_0").parameters["classification"].int64_param = 2
    (output,) = infer_on(server, request).result().outputs
    assert list(output.shape) == [1, 2]
    assert list(output.contents.bytes_contents) == [b"0.5:0:sorrel", b"0.25:1:zebra"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": [image(b"x")], "raw_input_contents": [b"\0\0\0\0"]}, "contents beside raw_in"),
        ({"inputs": [tensor("image", "BYTES", [1])]}, "0 values in bytes_contents; its shape ta"),
        (
            {"inputs": [tensor("image", "BYTES", [1])], "raw_input_contents": [b"", b""]},
            "2 raw_input_contents for 1 inputs",
        ),
        (
            {"inputs": [tensor("image", "BYTES", [1])], "raw_input_contents": [b"x"]},
            "input 'image' has only 1 bytes of data",
        ),
        ({"inputs": [tensor("image", "FP32", [1])]}, "input 'image' is FP32, not BYTES"),
        ({"inputs": [tensor("image", "", [1])]}, "input 'image' is untyped, not BYTES"),
        ({"inputs": [tensor("image", "BYTES", [-1])]}, "each of at least 0"),
        (
            {"inputs": [tensor("image", "BYTES", [2**62])]},
            "a first dimension of 4611686018427387904",
        ),
        ({"inputs": [tensor("image", "BYTES", [2**62] * 2)]}, "does not fit image"),
        ({"inputs": [image(b"x"), image(b"x")]}, "sent twice"),
        ({"inputs": []}, "Missing but required: {image}"),
        ({"inputs": [image(b"bad")]}, "image 0 of 1 is not a JPEG or PNG"),
    ],
)
def test_requests_that_are_refused(server: Any, infer_on: Any, fields: Any, message: str) -> None:
    code, details = failure(infer_on(server, request_of(**fields)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details


def test_signatures_and_parameters_that_are_refused(server: Any, infer_on: Any) -> None:
    code, details = failure(infer_on(server, request_of("top", inputs=[image(b"x")])))
    assert (code, "did you mean 'top_k'" in details) == (grpc.StatusCode.NOT_FOUND, True)
    code, details = failure(infer_on(server, request_of(timeout=-1, inputs=[image(b"x")])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'timeout' must be a whole number of at least 0, not -1" in details
    complex_input = tensor("x", "C64", [1])
    code, details = failure(
        infer_on(server, request_of("identity_complex64", inputs=[complex_input]))
    )
    assert "the Open Inference Protocol has no type for" in details


def test_sizes_beside_a_zero_that_no_array_has(server: Any, infer_on: Any) -> None:
    item = tensor("x", "FP32", [0, 2**62, 2**62])
    code, details = failure(infer_on(server, request_of("identity_float32", inputs=[item])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'x' has an impossible shape" in details


def test_a_request_that_is_no_message(server: Any, channel_to: Any) -> None:
    call = channel_to(server).unary_unary(SERVICE + "ModelInfer").future(b"\xff", timeout=20)
    code, details = failure(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is not a valid inference.ModelInferRequest" in details


def test_the_sooner_deadline_holds(server: Any, infer_on: Any) -> None:
    seconds = tensor("seconds", "FP32", [1], fp32_contents=[0.6])
    code, details = failure(infer_on(server, request_of("slow", 100_000, inputs=[seconds])))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no answer within 0.1 s (the deadline passed while" in details
    late = infer_on(server, request_of("slow", 20_000_000, inputs=[seconds]), timeout=0.1)
    assert failure(late)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    near = infer_on(server, request_of("slow", 20_000_000, inputs=[seconds]))
    assert near.result().outputs[0].name == "done"


def test_not_ready_before_the_model_is_loaded(
    launch: Any, model: Any, channel_to: Any, infer_on: Any
) -> None:
    model.put(1, load_delay=30)
    server = launch()
    server.wait_listening()
    for method, fields in (("ServerReady", {}), ("ModelReady", {"name": "m"})):
        request = getattr(inference_pb2, f"{method}Request")(**fields)
        call = channel_to(server).unary_unary(SERVICE + method)
        answer = call(request.SerializeToString(), timeout=20, wait_for_ready=True)
        assert answer == b""  # `ready: false` is the default, which proto3 leaves out
    code, details = failure(infer_on(server, request_of(inputs=[image(b"x")])))
    assert (code, "is loading" in details) == (grpc.StatusCode.UNAVAILABLE, True)


def test_random_weights_are_said(start: Any, model: Any, infer_on: Any) -> None:
    model.put(1, manifest=manifest(has_random_weights=True))
    server = start()
    call = infer_on(server, request_of(inputs=[image(b"x")]))
    assert dict(call.initial_metadata())["mlserve-random-weights"] == "1"
    body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}
    response = server.post(body, "/v2/models/m/infer")
    assert response.headers["x-mlserve-random-weights"] == "1"
