"""The official TensorFlow Serving client against the embedded server: what users have today."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]
ALL_FIELDS = {"float32": "float_val", "int64": "int64_val", "bool": "bool_val", "int8": "int_val"}


@pytest.fixture(scope="module")
def tf() -> Any:
    import tensorflow as tf

    return tf


@pytest.fixture(scope="module")
def apis(tf: Any) -> Any:
    """The official modules by name. TensorFlow's messages live beside ours without a clash."""
    from tensorflow_serving import apis
    from tensorflow_serving.apis import (  # noqa: F401
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    return apis


@pytest.fixture
def stub(apis: Any, server: Any, channel_to: Any) -> Any:
    return apis.prediction_service_pb2_grpc.PredictionServiceStub(channel_to(server))


def request(apis: Any, tf: Any, signature: str, **inputs: Any) -> Any:
    message = apis.predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.signature_name = signature
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def test_the_usual_image_client(apis: Any, tf: Any, stub: Any, server: Any) -> None:
    """Web-safe base64 text in `image`, the label in `output_0`; the same text over REST."""
    text = base64.urlsafe_b64encode(b"\xff\xd8\xff").decode()
    response = stub.Predict(request(apis, tf, "serving_default", image=[text]), 10.0)
    assert response.outputs["output_0"].string_val[0] == b"sorrel"
    url = f"http://{server.rest}/v1/models/m:predict"
    assert httpx.post(url, json={"inputs": {"image": [text]}}).json() == {"outputs": ["sorrel"]}


@pytest.mark.parametrize(("dtype", "field"), ALL_FIELDS.items())
def test_tensors_of_tensorflow(apis: Any, tf: Any, stub: Any, dtype: str, field: str) -> None:
    array = np.array([[1, 0], [0, 1]], dtype)
    output = stub.Predict(request(apis, tf, f"identity_{dtype}", x=array), 10.0).outputs["y"]
    assert getattr(output, field)[:] == array.ravel().tolist()
    np.testing.assert_array_equal(tf.make_ndarray(output), array)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "complex128", "uint64"])
def test_the_rarer_types_of_tensorflow(apis: Any, tf: Any, stub: Any, dtype: str) -> None:
    array = np.array([1, 0, 3]).astype(tf.as_dtype(dtype).as_numpy_dtype)
    message = request(apis, tf, f"identity_{dtype}")
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(array, dtype=dtype))
    output = stub.Predict(message, 10.0).outputs["y"]
    np.testing.assert_array_equal(tf.make_ndarray(output), array)


def test_one_value_for_a_whole_shape(apis: Any, tf: Any, stub: Any) -> None:
    message = request(apis, tf, "identity_float32")
    message.inputs["x"].CopyFrom(tf.make_tensor_proto(2.5, dtype="float32", shape=[2, 2]))
    del message.inputs["x"].float_val[1:]
    message.inputs["x"].tensor_content = b""
    output = stub.Predict(message, 10.0).outputs["y"]
    assert tf.make_ndarray(output).tolist() == [[2.5, 2.5], [2.5, 2.5]]


def test_metadata(apis: Any, stub: Any) -> None:
    message = apis.get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "m"
    response = stub.GetModelMetadata(message, 10.0)
    signatures = apis.get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    definition = signatures.signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    assert definition.inputs["image"].dtype == 7
    assert definition.inputs["image"].tensor_shape.dim[0].size == -1
    assert signatures.signature_def["identity_bool"].inputs["x"].tensor_shape.unknown_rank


def test_status(apis: Any, server: Any, channel_to: Any) -> None:
    stub = apis.model_service_pb2_grpc.ModelServiceStub(channel_to(server))
    message = apis.get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "m"
    (status,) = stub.GetModelStatus(message, 10.0).model_version_status
    assert (status.version, status.State.Name(status.state)) == (7, "AVAILABLE")
    assert status.status.error_code == 0
    message.model_spec.name = "other"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelStatus(message, 10.0)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_signature_that_takes_no_examples_is_refused(apis: Any, tf: Any, stub: Any) -> None:
    from tensorflow_serving.apis import classification_pb2

    message = classification_pb2.ClassificationRequest()
    message.model_spec.name = "m"
    message.input.example_list.examples.add()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(message, 10.0)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "No classification inputs found in SignatureDef: (image: bytes" in caught.value.details()
