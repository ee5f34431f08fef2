"""What TensorFlow Serving's own server tests ask, of `mlserve-model-server` with real SavedModels.

Its test data are made here, not taken: half_plus_two as TensorFlow 1 and 2 write it,
half_plus_three, and models whose signatures say less than they take.
"""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlserve.artifact import Artifact
from mlserve.testing.images import plain
from mlserve.testing.processes import wait_until
from tests.harness.model_server import INSTALLED, ModelServer, started

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]

BATCHING = "max_batch_size { value: 128 } num_batch_threads { value: 8 }"
LOADED = ("half_plus_two", "half_plus_two_v2", "half_plus_three", "one", "multiplied", "several")


def half_plus_two_v1(folder: Path) -> None:
    """x: float[?,1] -> y, as `saved_model_half_plus_two.py` of TensorFlow defines it."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [None, 1], "x")
        y = tf.add(tf.multiply(tf.Variable(0.5), x), tf.Variable(2.0), "y")
        session.run(tf.global_variables_initializer())
        signature = tf.saved_model.build_signature_def(
            {"x": tf.saved_model.build_tensor_info(x)},
            {"y": tf.saved_model.build_tensor_info(y)},
            "tensorflow/serving/predict",
        )
        builder = tf.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}
        )
        builder.save()


def linear(folder: Path, factor: float, offset: float, shape: Any) -> None:
    """x: float of that shape -> y = factor * x + offset, as TensorFlow 2 writes it."""
    import tensorflow as tf

    root = tf.Module()
    root.factor, root.offset = tf.Variable(factor), tf.Variable(offset)
    spec = tf.TensorSpec(shape, tf.float32, name="x")
    function = tf.function(lambda x: {"y": root.factor * x + root.offset})
    tf.saved_model.save(root, str(folder), signatures=function.get_concrete_function(spec))


def several_signatures(folder: Path) -> None:
    """Two signatures, each of which answers with its own number, whatever x is."""
    import tensorflow as tf

    spec = [tf.TensorSpec(None, tf.float32, name="x")]
    root = tf.Module()
    root.f = tf.function(lambda x: {"y": tf.constant([1.0])}, input_signature=spec)
    root.g = tf.function(lambda x: {"y": tf.constant([2.0])}, input_signature=spec)
    signatures = {"serving_default": root.f, "custom_signature_key": root.g}
    tf.saved_model.save(root, str(folder), signatures=signatures)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, with version folders as TensorFlow Serving's test data have them."""
    folder = tmp_path_factory.mktemp("models")
    half_plus_two_v1(folder / "half_plus_two" / "00000123")
    linear(folder / "half_plus_two_v2" / "00000123", 0.5, 2.0, [None, 1])
    linear(folder / "half_plus_three" / "00000123", 0.5, 3.0, [None, 1])
    linear(folder / "one" / "1", 0.5, 2.0, [1])
    linear(folder / "multiplied" / "00000123", 6.0, 0.0, None)
    several_signatures(folder / "several" / "00000123")
    return folder


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., ModelServer]]:
    """Starts a server of the test's own, by its flags."""
    with ExitStack() as servers:
        yield lambda *flags: servers.enter_context(started(INSTALLED, tmp_path / "log", *flags))


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ModelServer]:
    """One server of them all."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }} '
        for name in LOADED
    )
    config = models / "good_model_config.conf"
    config.write_text(f"model_config_list: {{ {entries} }}")
    arguments = "grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb"
    flags = (f"--model_config_file={config}", f"--grpc_channel_arguments={arguments}")
    with started(INSTALLED, models / "log", *flags) as server:
        wait_until(server.is_ready, timeout=90)
        yield server


@pytest.fixture(scope="module")
def stub(server: Any) -> Iterator[Any]:
    """The official client of that server."""
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc.insecure_channel(server.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def verify_predict(
    stub: Any,
    model: str,
    expected: float,
    *,
    version: int = 123,
    output: str = "",
    signature: str = "",
    shape: tuple[int, ...] = (1,),
) -> None:
    """What `VerifyPredictRequest` of the original's tests asks and checks: x = 2.0."""
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(2.0)
    for size in shape:
        request.inputs["x"].tensor_shape.dim.add(size=size)
    if output:
        request.output_filter.append(output)
    result = stub.Predict(request, 20.0)
    assert list(result.outputs) == ["y"]
    assert list(result.outputs["y"].float_val) == [expected]
    assert result.model_spec.name == model
    assert result.model_spec.signature_name == (signature or "serving_default")
    assert result.model_spec.version.value == version


@pytest.mark.parametrize("output", ["", "y"])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("half_plus_two", 3.0),
        ("half_plus_two_v2", 3.0),
        ("half_plus_three", 4.0),
        ("multiplied", 12.0),
    ],
)
def test_predict_of_a_saved_model(stub: Any, model: str, expected: float, output: str) -> None:
    """testPredictSavedModel, testGoodModelConfig, test_tf_saved_model_save."""
    verify_predict(stub, model, expected, output=output)
    verify_predict(stub, model, expected, output=output, shape=(1, 1))


def test_several_signatures_of_one_model(stub: Any) -> None:
    """test_tf_saved_model_save_multiple_signatures."""
    verify_predict(stub, "several", 2.0, signature="custom_signature_key", output="y")
    verify_predict(stub, "several", 1.0, output="y")


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("half_plus_two", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("half_plus_two_v2", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("half_plus_two", {"inputs": [2.0, 3.0, 4.0]}, {"outputs": [3.0, 3.5, 4.0]}),
        ("half_plus_two", {"instances": [[1.0], [5.0]]}, {"predictions": [[2.5], [4.5]]}),
        (
            "half_plus_two",
            {"instances": [[1.0, 2.0], [3.0, 4.0]]},
            {"predictions": [[2.5, 3.0], [3.5, 4.0]]},
        ),
        ("half_plus_two", {"inputs": 2.0}, {"outputs": 3.0}),
        ("half_plus_two_v2", {"inputs": 2.0}, {"outputs": 3.0}),
        ("one", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("one", {"instances": [[1.0], [2.0], [5.0]]}, {"predictions": [[2.5], [3.0], [4.5]]}),
        ("multiplied", {"instances": [[1.0], [2.0]]}, {"predictions": [[6.0], [12.0]]}),
        ("half_plus_two", {"instances": [1.0] * 1025}, {"predictions": [2.5] * 1025}),
    ],
)
def test_the_model_judges_the_shape(server: Any, model: str, body: Any, expected: Any) -> None:
    """testPredictREST, testPredictColumnarREST, and the README's own question."""
    answer = server.post(model, body)
    assert (answer.status_code, answer.json()) == (200, expected)


def test_what_the_model_refuses_is_a_bad_request(server: Any, models: Path) -> None:
    answer = server.post("half_plus_two", {"instances": ["x", "y"]})
    assert answer.status_code == 400
    assert "not of expected type: float" in answer.json()["error"]


def test_the_status(server: Any) -> None:
    """testGetStatusREST: version 123 of the folder 00000123."""
    assert server.get("v1/models/half_plus_two").json() == {
        "model_version_status": [
            {
                "version": "123",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_the_status_over_grpc(server: Any) -> None:
    """testGetModelStatus."""
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    with grpc.insecure_channel(server.grpc) as channel:
        result = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, 20.0)
    [status] = result.model_version_status
    assert (status.version, status.status.error_code) == (123, 0)


def test_predict_in_batches_over_a_unix_socket(
    models: Path, launch: Callable[..., Any], tmp_path: Path
) -> None:
    """testPredictBatching, testPredictUDS, testPrometheusEndpoint and the shape of a batch."""
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    batching, monitoring = tmp_path / "batching", tmp_path / "monitoring"
    batching.write_text(BATCHING)
    monitoring.write_text(
        'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'
    )
    server = launch(
        f"--model_base_path={models / 'half_plus_two'}",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        f"--monitoring_config_file={monitoring}",
        f"--grpc_socket_path={tmp_path / 'socket'}",
    )
    wait_until(server.is_ready, timeout=90)
    with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        verify_predict(stub, "default", 3.0, output="y")
        verify_predict(stub, "default", 3.0, shape=(1, 1))
    assert "# TYPE" in server.get("monitoring/prometheus/metrics").text
    assert json.loads(server.post("default", {"instances": [1.0]}).text) == {"predictions": [2.5]}


def test_the_command_serves_a_saved_model(launch: Any, artifact: Artifact) -> None:
    base = f"--model_base_path={artifact.path.parent}"
    server = launch(base, "--model_name=colours")
    wait_until(server.is_ready)
    b64 = {"b64": base64.b64encode(plain("green")).decode()}
    answer = server.post("colours", {"instances": [b64]})
    assert answer.json() == {"predictions": ["green"]}
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
