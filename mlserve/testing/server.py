"""Conformance tests of servers: a real process, real sockets, both ports."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from mlserve.artifact import LABELS_NAME, MANIFEST_NAME, Artifact
from mlserve.backend import Runner
from mlserve.client import Client
from mlserve.client.endpoint import Api
from mlserve.errors import DeadlineExceeded, InvalidInput, MlserveError, NotFound, Unavailable
from mlserve.testing.given import GivenServer
from mlserve.testing.images import noise, saved
from mlserve.testing.processes import ServerProcess, launched, wait_until
from mlserve.testing.questions import as_base64, predict_method, request_of
from mlserve.testing.relay import Pass, drip, relayed, stall

if TYPE_CHECKING:
    from mlserve.testing.questions import Predict

LATENESS = 10.0
"""Seconds that an answer may be late: a machine may be busy with other tests. A client that is
held waits for as long as the network is silent."""
PROTOCOLS = ("grpc", "rest")
APIS = ("tfs", "oip")


class ConformsAsServer(GivenServer):
    """Tests of a server of the exported classifier: its start, its answers and its end."""

    @pytest.fixture(scope="class")
    @classmethod
    def predict(cls, server: ServerProcess) -> Iterator[Predict]:
        """Yield TensorFlow Serving's Predict on that server, with raw messages."""
        with grpc.insecure_channel(server.grpc) as channel:
            yield predict_method(channel)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_nothing_is_ready_while_nothing_listens(self, protocol: str) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            address = "{}:{}".format(*bound.getsockname())
            endpoint = address if protocol == "grpc" else f"http://{address}"
            with Client(endpoint, model="m") as client, pytest.raises(Unavailable) as refused:
                client.status(timeout=5)
        assert address in refused.value.message
        assert refused.value.hint

    def test_it_starts_gets_ready_answers_reloads_and_drains(
        self, backend_name: str, artifact: Artifact, image: bytes, label: str, tmp_path: Path
    ) -> None:
        """One life of a server; only Unavailable is returned before it is ready."""
        base_path = tmp_path / artifact.model
        shutil.copytree(artifact.path, base_path / "1")
        served = Artifact.open(base_path, artifact.model, 1)
        with launched(backend_name, served, "--threads", "1") as server:
            assert wait_until(lambda: _label_or_unavailable(server, image)) == label
            assert server.state(1) == "AVAILABLE"
            shutil.copytree(artifact.path, base_path / ".incoming")
            (base_path / ".incoming").rename(base_path / "2")
            wait_until(lambda: _version_that_answers(server, image) == 2)
            _drains(server, image)

    def test_versions_that_arrive_file_by_file_are_served_once_they_are_whole(
        self, backend_name: str, artifact: Artifact, tmp_path: Path
    ) -> None:
        """Raw models first, then versions that mlserve exported, each with its manifest last."""
        base_path = tmp_path / artifact.model
        files = sorted(path for path in artifact.path.rglob("*") if path.is_file())
        own = [path for path in files if path.name not in (MANIFEST_NAME, LABELS_NAME)]
        manifest = [path for path in files if path not in own]
        _put(artifact, own, base_path / "1")
        served = Artifact.open(base_path, artifact.model, 1)
        with launched(backend_name, served, "--threads", "1") as server:
            server.wait_ready()
            _put(artifact, own[:1], base_path / "2")
            wait_until(lambda: "version 2 of" in server.log())
            _put(artifact, own[1:], base_path / "2")
            server.wait_ready(2)
            if artifact.manifest is None:
                return
            _put(artifact, files, base_path / "3")
            server.wait_ready(3)
            _put(artifact, own, base_path / "4")
            wait_until(lambda: f"{base_path / '4'} has no {MANIFEST_NAME} yet" in server.log())
            assert server.state(3) == "AVAILABLE"
            _put(artifact, manifest, base_path / "4")
            server.wait_ready(4)

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_it_answers_an_image(
        self, server: ServerProcess, protocol: str, api: Api, image: bytes, label: str
    ) -> None:
        with server.client(protocol, api) as client:
            answer = client.predict(image, timeout=10)
        assert answer.label == label
        assert answer.scores[0].label == label
        assert (answer.model, answer.has_random_weights) == (server.model, False)

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_it_gives_as_many_classes_as_are_wanted(
        self, server: ServerProcess, protocol: str, api: Api, image: bytes, runner: Runner
    ) -> None:
        ranking = runner.signatures.get("ranking")
        if ranking is None:
            pytest.skip("the model has no signature `ranking`")
        (classes,) = {spec.shape[-1] for spec in ranking.outputs if spec.shape}
        assert classes is not None
        with server.client(protocol, api) as client:
            one = client.predict(image, timeout=10, top_k=1)
            every = client.predict(image, timeout=10, top_k=classes + 7)
        assert (len(one.scores), one.shortfall) == (1, None)
        assert {score.index for score in every.scores} == set(range(classes))
        assert every.scores[0].label == one.label
        assert every.shortfall == f"the model has {classes} classes"

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_its_metadata_are_those_of_the_manifest(
        self, server: ServerProcess, protocol: str, artifact: Artifact, runner: Runner
    ) -> None:
        """Without a manifest, they are those of the runner."""
        with server.client(protocol) as client:
            served = {s.name: s for s in client.metadata(timeout=10).signatures}
        manifest = artifact.manifest
        told = manifest.signatures if manifest else tuple(runner.signatures.values())
        for signature in told:
            assert served[signature.name].inputs == signature.inputs
            assert set(served[signature.name].outputs) == set(signature.outputs)

    def test_a_batch_equals_single_calls(
        self, server: ServerProcess, predict: Predict, image: bytes
    ) -> None:
        files = [image, *(saved(noise(30 * n, 50, seed=n)) for n in range(1, 5))]
        alone = [
            predict(request_of(server.model, file), timeout=10).outputs["output_0"].string_val[0]
            for file in files
        ]
        together = predict(request_of(server.model, *files), timeout=10).outputs["output_0"]
        assert list(together.string_val) == alone
        labels = [name.decode() for name in alone]
        columns = _post(server, {"inputs": {"image": [as_base64(file) for file in files]}})
        assert (columns.status_code, columns.json()) == (200, {"outputs": labels})
        rows = _post(server, {"instances": [{"image": as_base64(file)} for file in files]})
        assert (rows.status_code, rows.json()) == (200, {"predictions": labels})

    @pytest.mark.parametrize("api", APIS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_bad_image_is_refused_and_the_next_one_answered(
        self,
        server: ServerProcess,
        protocol: str,
        api: Api,
        image: bytes,
        label: str,
        bad_image: bytes,
    ) -> None:
        with server.client(protocol, api) as client:
            with pytest.raises(InvalidInput):
                client.predict(bad_image, timeout=10)
            assert client.predict(image, timeout=10).label == label

    def test_a_bad_image_in_a_batch_is_named_by_its_index(
        self, server: ServerProcess, predict: Predict, image: bytes, bad_image: bytes
    ) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            predict(request_of(server.model, image, bad_image), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(refused.value.details()).startswith("image 1 of 2 is ")
        files = [as_base64(image), as_base64(bad_image)]
        answer = _post(server, {"inputs": files})
        assert answer.status_code == 415
        assert answer.json()["error"].startswith("image 1 of 2 is ")

    @pytest.mark.parametrize(
        "shape", [(), (1, 1), (2,)], ids=["a scalar", "a matrix", "more than there is"]
    )
    def test_a_wrong_shape_is_refused(
        self, server: ServerProcess, predict: Predict, image: bytes, shape: tuple[int, ...]
    ) -> None:
        request = request_of(server.model, image)
        tensor = request.inputs["image"]
        del tensor.tensor_shape.dim[:]
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.string_val[:] = [image] * (1 if shape != (2,) else 3)
        with pytest.raises(grpc.RpcError) as refused:
            predict(request, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"inputs": [["x"]]}, 400),
            ({"inputs": [1.5]}, 400),
            ({"inputs": {"picture": ["x"]}}, 400),
            ({}, 400),
            ({"inputs": ["x"], "signature_name": "nope"}, 400),
        ],
        ids=["a matrix", "a number", "a wrong name", "nothing", "no such signature"],
    )
    def test_a_wrong_request_is_refused(
        self, server: ServerProcess, body: dict[str, Any], status: int
    ) -> None:
        answer = _post(server, body)
        assert answer.status_code == status
        assert answer.json()["error"]

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_an_unknown_model_or_version_is_not_found(
        self, server: ServerProcess, protocol: str, image: bytes
    ) -> None:
        for model, version in (("nope", None), (server.model, 99)):
            with (
                Client(server.endpoint(protocol), model=model, version=version) as client,
                pytest.raises(NotFound),
            ):
                client.predict(image, timeout=10)

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("passes", [stall, drip])
    def test_a_network_that_holds_the_answer_back_does_not_hold_the_client(
        self, server: ServerProcess, protocol: str, passes: Pass, image: bytes, label: str
    ) -> None:
        with relayed(server.grpc if protocol == "grpc" else server.rest, passes) as relay:
            endpoint = relay if protocol == "grpc" else f"http://{relay}"
            with Client(endpoint, model=server.model) as client:
                started = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    client.predict(image, timeout=0.5)
                assert time.monotonic() - started <= 0.5 + LATENESS
        with server.client(protocol) as client:
            assert client.predict(image, timeout=10).label == label

    @pytest.mark.parametrize("body", [b"", b"{"], ids=["a stall", "a drip"])
    def test_a_client_that_does_not_finish_its_request_gets_no_more_than_its_time(
        self, server: ServerProcess, body: bytes
    ) -> None:
        """The server ends the request, however little of its body arrives."""
        host, _, port = server.rest.rpartition(":")
        head = (
            f"POST /v1/models/{server.model}:predict HTTP/1.1\r\nHost: test\r\n"
            "X-Request-Timeout-Ms: 300\r\nContent-Length: 100000\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode())
            connection.settimeout(0.05)
            answer = wait_until(lambda: _heard_after(connection, body), 10)
        assert answer.startswith(b"HTTP/1.1 504 ")

    def test_an_expired_request_is_not_run(self, server: ServerProcess, image: bytes) -> None:
        headers = {"X-Request-Timeout-Ms": "0"}
        answer = _post(server, {"inputs": [as_base64(image)]}, headers)
        assert answer.status_code == 504
        assert "deadline" in answer.json()["error"]

    def test_a_deadline_that_passes_meanwhile_is_kept(
        self, server: ServerProcess, predict: Predict, image: bytes
    ) -> None:
        """500 images in 5 ms give an error, or an answer anyway; the server then works normally."""
        many = request_of(server.model, *[image] * 500)
        try:
            assert len(predict(many, timeout=0.005).outputs["output_0"].string_val) == 500
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert predict(request_of(server.model, image), timeout=20).outputs["output_0"].string_val


def _post(server: ServerProcess, body: Any, headers: dict[str, str] | None = None) -> Any:
    url = f"http://{server.rest}/v1/models/{server.model}:predict"
    return httpx.post(url, json=body, headers=headers, timeout=20)


def _put(artifact: Artifact, files: Sequence[Path], folder: Path) -> None:
    """Copy these files of an artifact into a version folder."""
    for file in files:
        target = folder / file.relative_to(artifact.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def _label_or_unavailable(server: ServerProcess, image: bytes) -> str:
    """Return the label; empty while the server reports that it is not ready."""
    assert server.process.poll() is None, server.log()
    with server.client() as client:
        try:
            return client.predict(image, timeout=20).label
        except Unavailable:
            return ""


def _version_that_answers(server: ServerProcess, image: bytes) -> int | None:
    with server.client() as client:
        return client.predict(image, timeout=20).version


def _heard_after(connection: socket.socket, said: bytes) -> bytes:
    """Send a little more, and return what the server sends within 50 ms."""
    connection.sendall(said)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""


def _drains(server: ServerProcess, image: bytes) -> None:
    """Stop the server with requests in progress: each is answered, or rejected for the shutdown.

    gRPC itself cancels a request that arrives at that very moment.
    """
    many = request_of(server.model, *[image] * 20)
    with grpc.insecure_channel(server.grpc) as channel:
        method = predict_method(channel)
        calls = [method.future(many, timeout=20) for _ in range(8)]
        calls[0].result()
        server.process.send_signal(signal.SIGTERM)
        ends = [call.exception() for call in calls]
        assert server.process.wait(60) == 0, server.log()
    codes = {error.code() for error in ends if isinstance(error, grpc.RpcError)}
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    with server.client() as client, pytest.raises(MlserveError) as gone:
        client.predict(image, timeout=5)
    assert isinstance(gone.value, Unavailable)
    assert "Traceback" not in server.log()
