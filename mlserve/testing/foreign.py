"""Tests of third-party clients, which users already have, against a server of any backend.

They are not dependencies of mlserve: the tests of a client that is not installed are skipped.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mlserve.testing.given import GivenServer
from mlserve.testing.processes import ServerProcess

Ask = Callable[..., Any]
"""`ask(*images, signature=..., **options)` returns the result of a Triton client's `infer`."""

# Its messages are named like TensorFlow's, so it cannot share a process with TensorFlow.
_OVMS = """
import sys
import ovmsclient
grpc_address, rest_address, model, path = sys.argv[1:]
image = open(path, "rb").read()
clients = ovmsclient.make_grpc_client(grpc_address), ovmsclient.make_http_client(rest_address)
for client in clients:
    assert client.get_model_status(model, 1)[1]["state"] == "AVAILABLE"
    assert "DT_STRING" in str(client.get_model_metadata(model, 1))
    print(client.predict({"image": [image]}, model, 1).astype(str))
    print(client.predict({"image": [image, image]}, model, 1).astype(str))
    try:
        client.predict({"image": [image]}, "nope", 1)
    except ovmsclient.ModelNotFoundError:
        print("not found")
"""

# Its messages are named like the Triton client's.
_OPEN_INFERENCE = """
import sys
import grpc
from open_inference.grpc import protocol, service
address, model, path = sys.argv[1:]
with grpc.insecure_channel(address) as channel:
    stub = service.GRPCInferenceServiceStub(channel)
    assert stub.ServerLive(protocol.ServerLiveRequest(), timeout=30).live
    assert stub.ModelReady(protocol.ModelReadyRequest(name=model), timeout=30).ready
    about = stub.ModelMetadata(protocol.ModelMetadataRequest(name=model), timeout=30)
    assert [(i.name, i.datatype, list(i.shape)) for i in about.inputs] == [("image", "BYTES", [-1])]
    request = protocol.ModelInferRequest(model_name=model, id="7")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(open(path, "rb").read())
    answer = stub.ModelInfer(request, timeout=30)
    assert answer.id == "7"
    print(answer.outputs[0].contents.bytes_contents[0].decode())
    request.inputs[0].shape[0] = 2
    try:
        stub.ModelInfer(request, timeout=30)
    except grpc.RpcError as error:
        print(error.code().name)
"""


class ServesForeignClients(GivenServer):
    """Tests with clients of NVIDIA's Triton, Intel's OpenVINO Model Server and Open Inference."""

    @pytest.fixture(params=["grpc", "http"])
    def triton(self, server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Any]:
        """Yield the Triton client's module for a protocol, and a client of it."""
        module = pytest.importorskip(f"tritonclient.{request.param}")
        address = server.grpc if request.param == "grpc" else server.rest
        client = module.InferenceServerClient(address)
        yield module, client
        client.close()

    @pytest.fixture
    def infer(self, server: ServerProcess, triton: Any) -> Ask:
        """Return a function that sends images in the binary form of the protocol."""
        module, client = triton

        def ask(*images: bytes, **options: Any) -> Any:
            return client.infer(server.model, [_input(module, images)], **options)

        return ask

    def test_triton_finds_a_live_and_ready_server(self, server: ServerProcess, triton: Any) -> None:
        _, client = triton
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(server.model)
        assert client.is_model_ready(server.model, "1")

    def test_triton_reads_the_metadata(self, server: ServerProcess, triton: Any) -> None:
        module, client = triton
        is_grpc = module.__name__.endswith("grpc")
        as_json = {"as_json": True} if is_grpc else {}
        about_server = client.get_server_metadata(**as_json)
        assert about_server["name"] == "mlserve"
        assert "binary_tensor_data" in about_server["extensions"]
        about = client.get_model_metadata(server.model, **as_json)
        assert (about["name"], about["versions"]) == (server.model, ["1"])
        (image,), (label,) = about["inputs"], about["outputs"]
        assert (image["name"], image["datatype"]) == ("image", "BYTES")
        assert (label["name"], label["datatype"]) == ("output_0", "BYTES")
        assert [[int(size) for size in tensor["shape"]] for tensor in (image, label)] == [
            [-1],
            [-1],
        ]

    def test_triton_gets_the_label(self, triton: Any, infer: Ask, image: bytes, label: str) -> None:
        module, _ = triton
        answer = infer(image, request_id="42")
        assert answer.as_numpy("output_0").tolist() == [label.encode()]
        response = answer.get_response()
        assert (response.id if module.__name__.endswith("grpc") else response["id"]) == "42"
        assert infer(image, image).as_numpy("output_0").tolist() == [label.encode()] * 2

    def test_triton_gets_the_answer_of_another_signature(
        self, infer: Ask, image: bytes, label: str
    ) -> None:
        answer = infer(image, parameters={"signature": "top_k"})
        labels, scores = answer.as_numpy("labels"), answer.as_numpy("scores")
        assert labels[0, 0] == label.encode()
        assert (scores.dtype, scores.shape) == (np.float32, labels.shape)
        assert answer.as_numpy("indices").dtype == np.int32

    def test_triton_gets_the_outputs_that_it_asks_for(
        self, triton: Any, infer: Ask, image: bytes
    ) -> None:
        module, _ = triton
        wanted = [module.InferRequestedOutput("scores")]
        answer = infer(image, parameters={"signature": "top_k"}, outputs=wanted)
        assert answer.as_numpy("scores").shape[0] == 1
        assert answer.as_numpy("labels") is None

    def test_triton_gets_classes(self, triton: Any, infer: Ask, image: bytes, label: str) -> None:
        module, _ = triton
        wanted = [module.InferRequestedOutput("scores", class_count=2)]
        classes = infer(image, parameters={"signature": "top_k"}, outputs=wanted).as_numpy("scores")
        assert classes.shape == (1, 2)
        score, index, name = classes[0, 0].decode().split(":")
        assert (name, float(score) > 0, int(index) >= 0) == (label, True, True)

    def test_triton_speaks_json(self, server: ServerProcess, image: bytes, label: str) -> None:
        module = pytest.importorskip("tritonclient.http")
        asked = module.InferInput("image", [1], "BYTES")
        text = np.array([base64.b64encode(image)], dtype=object)
        asked.set_data_from_numpy(text, binary_data=False)
        wanted = module.InferRequestedOutput("output_0", binary_data=False)
        client = module.InferenceServerClient(server.rest)
        answer = client.infer(server.model, [asked], outputs=[wanted])
        client.close()
        assert answer.get_output("output_0")["data"] == [label]
        assert answer.as_numpy("output_0").tolist() == [label]

    @pytest.mark.parametrize("method", ["gzip", "deflate"])
    def test_triton_compresses_its_grpc_requests(
        self, server: ServerProcess, image: bytes, label: str, method: str
    ) -> None:
        module = pytest.importorskip("tritonclient.grpc")
        with module.InferenceServerClient(server.grpc) as client:
            asked = [_input(module, [image])]
            answer = client.infer(server.model, asked, compression_algorithm=method)
        assert answer.as_numpy("output_0").tolist() == [label.encode()]

    def test_tritons_own_timeout_ends_a_call(
        self, server: ServerProcess, image: bytes, label: str
    ) -> None:
        module = pytest.importorskip("tritonclient.grpc")
        with module.InferenceServerClient(server.grpc) as client:
            asked = [_input(module, [image])]
            with pytest.raises(_triton_error(), match=r"(?i)deadline"):
                client.infer(server.model, asked, client_timeout=0.0001)
            answer = client.infer(server.model, asked, client_timeout=20)
        assert answer.as_numpy("output_0").tolist() == [label.encode()]

    def test_the_timeout_parameter_ends_a_request(
        self, infer: Ask, image: bytes, label: str
    ) -> None:
        """The protocol's own `timeout` is in microseconds."""
        with pytest.raises(_triton_error(), match="deadline"):
            infer(image, timeout=1)
        assert infer(image, timeout=20_000_000).as_numpy("output_0").tolist() == [label.encode()]

    def test_triton_is_told_what_is_wrong(
        self, server: ServerProcess, triton: Any, infer: Ask, image: bytes, bad_image: bytes
    ) -> None:
        module, client = triton
        with pytest.raises(_triton_error(), match="image 1 of 2 is "):
            infer(image, bad_image)
        with pytest.raises(_triton_error(), match="nope"):
            client.infer("nope", [_input(module, [image])])
        number = module.InferInput("image", [1], "FP32")
        number.set_data_from_numpy(np.zeros(1, np.float32))
        with pytest.raises(_triton_error(), match="FP32, not BYTES"):
            client.infer(server.model, [number])

    def test_the_client_of_openvino_model_server_gets_its_answers(
        self, server: ServerProcess, image: bytes, label: str, tmp_path: Any
    ) -> None:
        pytest.importorskip("ovmsclient", exc_type=ImportError)
        path = tmp_path / "image"
        path.write_bytes(image)
        printed = _run(_OVMS, server.grpc, server.rest, server.model, str(path))
        one, two = f"['{label}']", f"['{label}' '{label}']"
        assert printed == [one, two, "not found"] * 2

    def test_the_client_generated_from_the_open_inference_protocol(
        self, server: ServerProcess, image: bytes, label: str, tmp_path: Any
    ) -> None:
        """The generated client sends typed contents, where Triton's sends raw ones."""
        pytest.importorskip("open_inference.grpc")
        path = tmp_path / "image"
        path.write_bytes(image)
        printed = _run(_OPEN_INFERENCE, server.grpc, server.model, str(path))
        assert printed == [label, "INVALID_ARGUMENT"]


def _run(script: str, *args: str) -> list[str]:
    """Return the lines that a client prints in a process of its own."""
    argv = [sys.executable, "-c", script, *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _input(module: Any, images: Any) -> Any:
    array = np.empty(len(images), dtype=object)
    array[:] = images
    asked = module.InferInput("image", list(array.shape), "BYTES")
    asked.set_data_from_numpy(array)
    return asked


def _triton_error() -> type[Exception]:
    error: type[Exception] = pytest.importorskip("tritonclient.utils").InferenceServerException
    return error
