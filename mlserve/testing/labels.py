"""Tests that labels with odd content or white space are passed through unchanged."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace

import grpc
import httpx
import pytest

from mlserve.artifact import Artifact
from mlserve.backend import Backend
from mlserve.client.endpoint import Api
from mlserve.load_options import LoadOptions
from mlserve.sources import Classifier
from mlserve.testing.artifacts import exported
from mlserve.testing.colours import LABELS
from mlserve.testing.given import GivenServer
from mlserve.testing.image_classifier import ask
from mlserve.testing.images import plain
from mlserve.testing.processes import ServerProcess, launched
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.services import INFERENCE, method_path

ODD_LABELS = (
    "4:3",
    "a line\u2028separator, a\nline break and a\rreturn\x85",
    "0.5:1:two  spaces, a\ttab, a no-break\u00a0space ",
)
"""One each for red, green and blue: a class `score:index`, line ends, white space."""
COLOURS = pytest.mark.parametrize(("colour", "label"), list(zip(LABELS, ODD_LABELS, strict=True)))


class KeepsLabels(GivenServer):
    """Tests of labels on their way from the artifact to the caller."""

    @pytest.fixture(scope="class")
    @classmethod
    def odd_artifact(
        cls, backend_name: str, classifier: Classifier, tmp_path_factory: pytest.TempPathFactory
    ) -> Artifact:
        """Export the classifier with `ODD_LABELS`."""
        model = replace(classifier, labels=ODD_LABELS)
        return exported(backend_name, model, tmp_path_factory.mktemp("labels") / model.name)

    @pytest.fixture(scope="class")
    @classmethod
    def odd_server(cls, backend_name: str, odd_artifact: Artifact) -> Iterator[ServerProcess]:
        """Yield a ready server of `odd_artifact`."""
        with launched(backend_name, odd_artifact) as server:
            server.wait_ready()
            yield server

    def test_odd_labels_are_loaded_as_they_were_exported(
        self, backend: Backend, odd_artifact: Artifact
    ) -> None:
        assert odd_artifact.labels() == ODD_LABELS
        runner = backend.load(odd_artifact, LoadOptions())
        images = [plain(colour) for colour in LABELS]
        best = ask(runner, *images)["labels"][:, 0]
        assert best.tolist() == [label.encode() for label in ODD_LABELS]
        only = ask(runner, *images, signature="serving_default")["output_0"]
        assert only.tolist() == [label.encode() for label in ODD_LABELS]
        runner.close()

    @COLOURS
    @pytest.mark.parametrize("api", ["tfs", "oip"])
    @pytest.mark.parametrize("protocol", ["grpc", "rest"])
    def test_an_odd_label_arrives_as_it_is(
        self, odd_server: ServerProcess, protocol: str, api: Api, colour: str, label: str
    ) -> None:
        with odd_server.client(protocol, api) as client:
            answer = client.predict(plain(colour), timeout=20)
        assert (answer.label, answer.api) == (label, api)
        assert {score.label for score in answer.scores} == set(ODD_LABELS)
        best = answer.scores[0]
        assert (best.label, best.index) == (label, LABELS.index(colour))
        assert 1 / 3 < best.score < 1

    @COLOURS
    def test_an_odd_label_is_the_rest_of_its_class(
        self, odd_server: ServerProcess, colour: str, label: str
    ) -> None:
        """Requested with the classification extension, over gRPC and REST."""
        wanted = f":{LABELS.index(colour)}:{label}"
        request = ModelInferRequest(model_name=odd_server.model)
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(plain(colour))
        output = request.outputs.add(name="output_0")
        output.parameters["classification"].int64_param = 2
        with grpc.insecure_channel(odd_server.grpc) as channel:
            method = channel.unary_unary(
                method_path(INFERENCE, "ModelInfer"),
                request_serializer=ModelInferRequest.SerializeToString,
                response_deserializer=ModelInferResponse.FromString,
            )
            first, second = method(request, timeout=20).outputs[0].contents.bytes_contents
        assert first.decode().endswith(wanted)
        assert not second.decode().endswith(wanted)
        tensors = {"name": "image", "shape": [1], "datatype": "BYTES"}
        classes = {"name": "output_0", "parameters": {"classification": 2}}
        data = [base64.b64encode(plain(colour)).decode()]
        body = {"inputs": [{**tensors, "data": data}], "outputs": [classes]}
        url = f"http://{odd_server.rest}/v2/models/{odd_server.model}/infer"
        answer = httpx.post(url, json=body, timeout=20)
        assert answer.json()["outputs"][0]["data"] == [first.decode(), second.decode()]
