"""From a hub to an answer: `export`, `up`, `predict` with the default model, as a user does.

The hub is the stand-in; everything behind it is real: tensorflow-hub's resolver and cache, the
export, the server process, the wire. The client that nobody here wrote is TensorFlow Serving's own
stub, used as its Inception v3 example uses it.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserve.sources import Classifier
from tests.harness.command import Command

IMAGE = Path(__file__).parents[3] / "examples" / "horse.jpg"

pytestmark = [pytest.mark.tensorflow, pytest.mark.server]


@pytest.fixture
def server(cli: Command, hub: Any, module_tar: bytes) -> Iterator[dict[str, Any]]:
    """The running server of the default model, as `mlserve ps` describes it."""
    hub.serve(module_tar)
    for words in (("export",), ("up", "--launcher", "embedded", "--wait", 200)):
        done = cli(*words, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    yield cli.ps()[0]
    assert cli("down").returncode == 0


@pytest.fixture
def expected(tf: Any, open_model: Callable[..., Classifier], hub: Any, module_tar: bytes) -> str:
    """The label of the example image, computed step by step in this process.

    The module's logits are the first 1001 numbers of the pixels, halved.
    """
    hub.serve(module_tar)
    model = open_model("inception_v3")
    pixels = tf.io.decode_jpeg(IMAGE.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
    resized = tf.image.resize(pixels[tf.newaxis], [299, 299], antialias=False)
    scaled = resized * model.pipeline.scale + model.pipeline.offset
    logits = tf.reshape(scaled, [-1])[:1001] / 2
    return model.pipeline.full_labels(model.labels)[int(tf.argmax(logits))]


def test_the_default_model_answers_every_client(
    cli: Command, server: dict[str, Any], expected: str
) -> None:
    assert server["model"] == "inception_v3"
    assert cli("predict", IMAGE, "--timeout", 30).stdout == f"{expected}\n"
    rest = cli.json("predict", IMAGE, "--protocol", "rest")
    assert rest["label"] == expected
    assert rest["scores"][0]["label"] == expected
    assert _ask_as_the_example_does(server) == expected
    assert _ask_rest_as_the_example_does(server) == {"outputs": [expected]}


def _ask_as_the_example_does(server: dict[str, Any]) -> str:
    import grpc
    from mlserve_models.framework import framework_imports

    with framework_imports():
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "inception_v3"
    request.model_spec.signature_name = "serving_default"
    text = base64.urlsafe_b64encode(IMAGE.read_bytes())
    request.inputs["image"].CopyFrom(tf.make_tensor_proto([text], shape=[1]))
    with grpc.insecure_channel(f"{server['host']}:{server['grpc_port']}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request, timeout=30)
    return str(answer.outputs["output_0"].string_val[0].decode())


def _ask_rest_as_the_example_does(server: dict[str, Any]) -> Any:
    text = base64.urlsafe_b64encode(IMAGE.read_bytes()).decode()
    request = urllib.request.Request(
        f"http://{server['host']}:{server['rest_port']}/v1/models/inception_v3:predict",
        json.dumps({"inputs": {"image": [text]}}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
