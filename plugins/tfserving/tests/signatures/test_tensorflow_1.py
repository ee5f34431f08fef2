"""Predict on signatures of TensorFlow 1, and on inputs that have a default."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend

from mlserve.artifact import Artifact
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]


@pytest.fixture
def predict(apis: Any, stub: Any) -> Callable[..., dict[str, Any]]:
    """Asks over gRPC with the official client; the outputs as arrays."""
    import tensorflow as tf

    def ask(model: str, signature: str, **inputs: Any) -> dict[str, Any]:
        request = apis.predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = stub.Predict(request, 20).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    return ask


@pytest.fixture
def infer(server: Any, ready: None) -> Iterator[Any]:
    """Asks over the Open Inference Protocol's gRPC."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )


def numbers_in(answer: ModelInferResponse) -> list[float]:
    """The values of the only output, as typed contents or as raw bytes."""
    typed = list(answer.outputs[0].contents.fp32_contents)
    raw = b"".join(answer.raw_output_contents)
    return typed or np.frombuffer(raw, np.float32).tolist()


def test_half_plus_two_has_variables(predict: Any, server: Any) -> None:
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    assert predict("half_plus_two", "", x=x)["y"].tolist() == [[2.5], [3.0], [4.5]]
    answer = server.post("half_plus_two", {"instances": [[1.0], [2.0], [5.0]]})
    assert answer.json() == {"predictions": [[2.5], [3.0], [4.5]]}


def test_the_main_op_of_a_model_reads_its_assets(predict: Any) -> None:
    assert predict("half_plus_two", "asset")["text"] == b"from an asset\n"


def test_a_table_of_tensorflow_1_is_initialised(server: Any, ready: None) -> None:
    body = {"signature_name": "looked_up", "inputs": ["b", "?", "a"]}
    assert server.post("odd", body).json() == {"outputs": [2, -1, 1]}


def test_a_signature_without_inputs_is_served(predict: Any, infer: Any, server: Any) -> None:
    assert predict("odd", "serving_default")["weight"].tolist() == [2.5, 3.5]
    assert server.post("odd", {"inputs": {}}).json() == {"outputs": [2.5, 3.5]}
    answer = httpx.post(f"http://{server.rest}/v2/models/odd/infer", json={"inputs": []})
    assert answer.json()["outputs"][0]["data"] == [2.5, 3.5]
    answer = infer(ModelInferRequest(model_name="odd"), timeout=20)
    assert numbers_in(answer) == [2.5, 3.5]


def test_an_output_that_is_a_reference_has_the_type_of_what_it_holds(
    models: Path, predict: Any
) -> None:
    outputs = predict("odd", "reference", x=np.array([3.0], np.float32))
    assert outputs["weight"].dtype == np.float32
    assert (outputs["weight"].tolist(), outputs["y"].tolist()) == ([1.5, 2.5], [6.0])
    runner = TFServingBackend().load(Artifact.open(models / "odd", "odd", 1), LoadOptions())
    assert runner.signatures["reference"].outputs[0] == TensorSpec("weight", DType.FLOAT32, (2,))


def test_a_session_takes_the_shapes_that_the_graph_takes(models: Path) -> None:
    """A placeholder's shape is a description, as it is to TensorFlow Serving."""
    runner = TFServingBackend().load(Artifact.open(models / "odd", "odd", 1), LoadOptions())
    keys = np.array([[b"a"], [b"b"]], dtype=object)
    assert runner.run("looked_up", {"key": keys})["value"].tolist() == [[1], [2]]
    runner.close()


def test_a_tensor_without_a_shape_takes_any(predict: Any, server: Any) -> None:
    for shape in ((3,), (0,)):
        x = np.ones(shape, np.float32)
        assert predict("odd", "shapeless", x=x)["y"].shape == shape
    body = {"signature_name": "shapeless", "instances": [1.0, 2.5]}
    assert server.post("odd", body).json() == {"predictions": [2.0, 5.0]}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("string", [b"\xff", b""]),
        ("bool", [True, False]),
        ("half", [0.5, -2.0]),
        ("bfloat16", [0.5, -2.0]),
        ("quint8", [0, 255]),
        ("qint32", [-7, 2**31 - 1]),
    ],
)
def test_rare_types_come_back_as_they_went(
    apis: Any, stub: Any, name: str, values: list[Any]
) -> None:
    import tensorflow as tf

    dtype = getattr(tf, name)
    array = np.array(values, object if name == "string" else None)
    if dtype.is_quantized:
        array = array.astype(dtype.as_numpy_dtype[0]).view(dtype.as_numpy_dtype)
    request = apis.predict_pb2.PredictRequest()
    label = {"half": "float16"}.get(name, name)
    request.model_spec.name, request.model_spec.signature_name = "odd", f"same_{label}"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(array, dtype=dtype))
    output = stub.Predict(request, 20).outputs["y"]
    assert output.dtype == dtype.as_datatype_enum
    assert output.tensor_shape.dim[0].size == len(values)
    np.testing.assert_array_equal(tf.make_ndarray(output), tf.make_ndarray(request.inputs["x"]))


def test_a_quantised_input_is_what_it_stands_for_in_the_model(server: Any, ready: None) -> None:
    body = {"signature_name": "real", "inputs": [0, 128, 255]}
    assert server.post("odd", body).json() == {"outputs": [0.0, 256.0, 510.0]}


def test_what_cannot_be_served_is_left_out_and_logged(server: Any, ready: None) -> None:
    answer = server.post("odd", {"signature_name": "sparse", "inputs": {}})
    assert "not found" in answer.json()["error"]
    assert "the signature sparse is left out: x is not one tensor" in server.log()
    assert "the signature nothing is left out: it has no outputs" in server.log()
    assert "the signature __saved_model_init_op" not in server.log()


@pytest.mark.parametrize(("sent", "y"), [({}, [2.0, 4.0]), ({"b": 10.0}, [10.0, 20.0])])
def test_an_input_that_is_left_out_has_its_default_everywhere(
    server: Any, predict: Any, infer: Any, sent: dict[str, float], y: list[float]
) -> None:
    a = np.array([1.0, 2.0], np.float32)
    scalars = {name: np.float32(value) for name, value in sent.items()}
    assert predict("new", "", a=a, **scalars)["y"].tolist() == y
    columns = server.post("new", {"inputs": {"a": [1.0, 2.0], **sent}})
    assert columns.json() == {"outputs": y}
    inputs = [{"name": "a", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}]
    inputs += [
        {"name": name, "datatype": "FP32", "shape": [], "data": [value]}
        for name, value in sent.items()
    ]
    answer = httpx.post(f"http://{server.rest}/v2/models/new/infer", json={"inputs": inputs})
    assert answer.json()["outputs"][0]["data"] == y
    request = ModelInferRequest(model_name="new")
    for item in inputs:
        tensor = request.inputs.add(
            name=item["name"], datatype=item["datatype"], shape=item["shape"]
        )
        tensor.contents.fp32_contents.extend(item["data"])
    assert numbers_in(infer(request, timeout=20)) == y


def test_rows_may_leave_out_what_has_a_default(server: Any, predict: Any) -> None:
    answer = server.post("new", {"instances": [{"a": 1.0}, {"a": 2.0}]})
    assert answer.json() == {"predictions": [2.0, 4.0]}
    answer = server.post("new", {"instances": [{"a": 1.0, "b": 3.0}, {"a": 2.0}]})
    assert answer.status_code == 400
    assert "in all of 'instances', or in none" in answer.json()["error"]
    assert predict("new", "greeting")["text"].tolist() == [b"hello you", b"hello all"]
    assert predict("new", "greeting", name=[b"me"])["text"].tolist() == [b"hello me"]


def test_the_configuration_says_what_may_be_left_out(server: Any, ready: None) -> None:
    inputs = server.get("v2/models/new/config").json()["input"]
    assert {item["name"]: item.get("optional", False) for item in inputs} == {"a": False, "b": True}


def test_an_input_without_a_default_is_required(server: Any, predict: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        predict("new", "", b=np.float32(1))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Missing but required: {a}" in refused.value.details()
    assert server.post("new", {"inputs": {"b": 1.0}}).status_code == 400


@pytest.fixture
def warmed(models: Path, tmp_path: Path, apis: Any) -> Callable[..., Any]:
    """Loads half_plus_two with these warm-up requests, each a kind and a request of that kind."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    def load(**requests: Any) -> Any:
        folder = tmp_path / "1"
        shutil.copytree(models / "half_plus_two" / "1", folder)
        (folder / "assets.extra").mkdir()
        place = folder / "assets.extra" / "tf_serving_warmup_requests"
        with tf.io.TFRecordWriter(str(place)) as writer:
            for kind, request in requests.items():
                log = prediction_log_pb2.PredictionLog()
                getattr(log, kind).request.CopyFrom(request)
                writer.write(log.SerializeToString())
        return TFServingBackend().load(Artifact.open(tmp_path, "m", 1), LoadOptions())

    return load


def test_warm_up_requests_of_examples_are_replayed(
    apis: Any, example: Any, warmed: Callable[..., Any]
) -> None:
    classify = apis.classification_pb2.ClassificationRequest()
    classify.model_spec.signature_name = "classify_x_to_y"
    classify.input.example_list.examples.append(example(x=1.0))
    both = apis.inference_pb2.MultiInferenceRequest()
    both.tasks.add().model_spec.signature_name = "regress_x_to_y"
    both.input.example_list_with_context.examples.append(example(x2=1.0))
    both.input.example_list_with_context.context.CopyFrom(example(x=1.0))
    assert warmed(classify_log=classify, multi_inference_log=both).signatures


def test_a_warm_up_request_of_examples_that_fails_is_told(
    apis: Any, example: Any, warmed: Callable[..., Any]
) -> None:
    regress = apis.regression_pb2.RegressionRequest()
    regress.model_spec.signature_name = "regress_x_to_y"
    regress.input.example_list.examples.append(example(x2=1.0))
    with pytest.raises(ModelLoadFailed, match=r"warm-up requests .* x .* is required"):
        warmed(regress_log=regress)
