"""TensorFlow Serving's gRPC API of a real server, with health and reflection."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from mlserve.server.tensors import NUMPY
from mlserve.server.tfs import tensor_proto
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    SignatureDefMap,
)

IMAGES = np.array([b"one", b"two"], object), DType.BYTES


def to_array(name: str, proto: Any) -> Any:
    room = tensor_proto.Expansion(DEFAULT_SETTINGS.expanded_bytes)
    return tensor_proto.to_array(name, proto, room)


def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError):
        call.result()
    return call.code(), call.details()


def test_predict(server: Any, predict_on: Any, request_of: Any) -> None:
    call = predict_on(server, request_of(image=IMAGES))
    response = call.result()
    assert list(response.outputs["output_0"].string_val) == [b"sorrel", b"sorrel"]
    assert response.model_spec.name == "m"
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == "serving_default"
    assert "mlserve-random-weights" not in dict(call.initial_metadata())


@pytest.mark.parametrize("dtype", list(DType))
def test_every_dtype_there_and_back(
    server: Any, predict_on: Any, request_of: Any, dtype: DType
) -> None:
    array = np.array([[b"x", b"\xff"]], object) if dtype is DType.BYTES else np.ones((1, 2))
    array = array.astype(NUMPY[dtype])
    request = request_of(f"identity_{dtype.label}", x=(array, dtype))
    answer = to_array("y", predict_on(server, request).result().outputs["y"])
    assert answer.dtype == array.dtype
    assert answer.tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 2)])
def test_scalars_and_empty_tensors(
    server: Any, predict_on: Any, request_of: Any, shape: tuple[int, ...]
) -> None:
    request = request_of("identity_float32", x=(np.zeros(shape, np.float32), DType.FLOAT32))
    answer = to_array("y", predict_on(server, request).result().outputs["y"])
    assert answer.shape == shape


def test_the_output_filter(server: Any, predict_on: Any, request_of: Any) -> None:
    request = request_of("top_k", image=IMAGES)
    request.output_filter.append("scores")
    assert list(predict_on(server, request).result().outputs) == ["scores"]
    request.output_filter[:] = ["score"]
    code, details = failure(predict_on(server, request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "output tensor alias not found in signature: score" in details
    request.output_filter[:] = ["scores", "scores"]
    assert "duplicate output tensor alias" in failure(predict_on(server, request))[1]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"name": "other"}, "NOT_FOUND", "Servable not found for request: Latest(other)"),
        ({"signature_name": "topk"}, "FAILED_PRECONDITION", "did you mean 'top_k' for 'topk'"),
        ({"version": {"value": 8}}, "NOT_FOUND", "Servable not found for request: Specific(m, 8)"),
        ({"version_label": "stable"}, "INVALID_ARGUMENT", "label: stable"),
    ],
)
def test_what_is_not_served(
    server: Any, predict_on: Any, request_of: Any, change: Any, code: str, message: str
) -> None:
    request = request_of(image=IMAGES)
    request.model_spec.MergeFrom(type(request.model_spec)(**change))
    got, details = failure(predict_on(server, request))
    assert (got.name, message in details) == (code, True), details


def test_the_version_that_is_served(server: Any, predict_on: Any, request_of: Any) -> None:
    request = request_of(image=IMAGES)
    request.model_spec.version.value = 7
    assert predict_on(server, request).result().model_spec.version.value == 7


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Sent extra: {}. Missing but required: {image}"),
        ({"imag": IMAGES}, "did you mean 'image' for 'imag'"),
        (
            {"image": (np.ones(1, np.float32), DType.FLOAT32)},
            "Expects arg[0] to be string but float is provided: input 'image' is",
        ),
        ({"image": (np.array([[b"x"]], object), DType.BYTES)}, "has shape [1, 1]"),
        ({"image": (np.array([b"ok", b"bad"], object), DType.BYTES)}, "image 1 of 2 is not"),
    ],
)
def test_inputs_that_do_not_fit(
    server: Any, predict_on: Any, request_of: Any, inputs: Any, message: str
) -> None:
    code, details = failure(predict_on(server, request_of(**inputs)))
    assert (code.name, message in details) == ("INVALID_ARGUMENT", True), details


def test_what_nobody_expected_tells_nothing(server: Any, predict_on: Any, request_of: Any) -> None:
    request = request_of("crash", seconds=(np.ones(1, np.float32), DType.FLOAT32))
    assert failure(predict_on(server, request)) == (
        grpc.StatusCode.INTERNAL,
        "internal error; the server's log has the details",
    )


def test_a_request_that_is_no_message(server: Any, channel_to: Any) -> None:
    method = channel_to(server).unary_unary("/tensorflow.serving.PredictionService/Predict")
    code, details = failure(method.future(b"\xff\xff\xff", timeout=20))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a valid tensorflow.serving.PredictRequest" in details


def test_a_method_that_is_not_there(server: Any, channel_to: Any) -> None:
    method = channel_to(server).unary_unary("/tensorflow.serving.PredictionService/Explain")
    assert failure(method.future(b"", timeout=20))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_of_more_than_grpcs_own_4_mib(
    server: Any, predict_on: Any, request_of: Any
) -> None:
    request = request_of(image=(np.array([bytes(20 * 2**20)], object), DType.BYTES))
    assert predict_on(server, request).result().outputs["output_0"].string_val == [b"sorrel"]


def test_a_message_beyond_the_limit(server: Any, predict_on: Any, request_of: Any) -> None:
    request = request_of(image=(np.array([bytes(65 * 2**20)], object), DType.BYTES))
    code, details = failure(predict_on(server, request))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def metadata(channel: Any, *fields: str, name: str = "m") -> Any:
    request = GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return channel.unary_unary(
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        request_serializer=GetModelMetadataRequest.SerializeToString,
        response_deserializer=GetModelMetadataResponse.FromString,
    ).future(request, timeout=20)


def test_metadata(server: Any, channel_to: Any) -> None:
    response = metadata(channel_to(server), "signature_def").result()
    assert response.model_spec.version.value == 7
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    two = signatures.signature_def["two"]
    assert sorted(two.inputs) == ["a", "b"]
    assert [dim.size for dim in two.outputs["sum"].tensor_shape.dim] == [-1]


def test_metadata_that_is_not_there(server: Any, channel_to: Any) -> None:
    channel = channel_to(server)
    assert failure(metadata(channel))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "Metadata field x" in failure(metadata(channel, "x"))[1]
    assert failure(metadata(channel, "signature_def", name="x"))[0] is grpc.StatusCode.NOT_FOUND


def status(channel: Any, name: str) -> Any:
    request = GetModelStatusRequest()
    request.model_spec.name = name
    return channel.unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        request_serializer=GetModelStatusRequest.SerializeToString,
        response_deserializer=GetModelStatusResponse.FromString,
    ).future(request, timeout=20)


def test_status(server: Any, channel_to: Any) -> None:
    channel = channel_to(server)
    (entry,) = status(channel, "m").result().model_version_status
    assert (entry.version, entry.state) == (7, ModelVersionStatus.AVAILABLE)
    assert entry.status.error_code == 0
    assert failure(status(channel, "other"))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "service",
    [
        "",
        "PredictionService",
        "ModelService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
    ],
)
def test_health(server: Any, channel_to: Any, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel_to(server))
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(server: Any, channel_to: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel_to(server))
    services = set(database.get_services())
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
        "mlserve.Server",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } == services
    pool = DescriptorPool(database)
    for service in services:
        assert pool.FindServiceByName(service).methods
    fields = pool.FindMessageTypeByName("tensorflow.serving.PredictRequest").fields_by_name
    assert list(fields) == list(PredictRequest.DESCRIPTOR.fields_by_name)
