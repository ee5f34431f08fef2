"""The server measured by the benchmarks: the real export of a real model on its own ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from mlserve.artifact import Artifact
from mlserve.tensors import DType
from mlserve.wire.proto.serving_pb2 import PredictRequest, PredictResponse

BACKEND, MODEL = "onnxruntime", "efficientnet_lite0"
IMAGE = Path(__file__).parents[1] / "examples" / "horse.jpg"
MLSERVE = (sys.executable, "-m", "mlserve")


@dataclass(frozen=True)
class ServedModel:
    """A running server and its files; `seconds_to_ready` is the time `mlserve up` took."""

    grpc_endpoint: str
    rest_endpoint: str
    model: str
    path: Path
    env: dict[str, str]
    pid: int
    seconds_to_ready: float

    def ask_over_grpc(self, image: bytes) -> Callable[[], bytes]:
        """Return a function that requests the image's label, on a channel of its own."""
        channel = grpc.insecure_channel(
            self.grpc_endpoint, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        request = predict_request(self.model, "top_k", image)
        return lambda: bytes(call(request, timeout=30).outputs["labels"].string_val[0])


def exported(home: str) -> Artifact:
    """Export the model into that folder with meaningless weights."""
    argv = [*MLSERVE, "export", "--backend", BACKEND, "--model", MODEL, "--weights", "random"]
    env = {**os.environ, "MLSERVE_HOME": home}
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    folder = Path(done.stdout.splitlines()[0])
    return Artifact.open(folder.parent, MODEL, int(folder.name))


def predict_request(model: str, signature: str, image: bytes) -> PredictRequest:
    """Return the request for one image."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor = request.inputs["image"]
    tensor.dtype = DType.BYTES.tf_number
    tensor.tensor_shape.dim.add(size=1)
    tensor.string_val.append(image)
    return request


@contextmanager
def served_model(
    threads: int | None = None,
    *,
    backend: str = "tfserving",
    model: str = MODEL,
    weights: str | None = None,
    export_flags: Sequence[str] = (),
) -> Iterator[ServedModel]:
    """Export the model into a temporary folder and serve it."""
    with tempfile.TemporaryDirectory(prefix="mlserve-bench-") as home:
        env = {**os.environ, "MLSERVE_HOME": home}
        weight_flags = [] if weights is None else ["--weights", weights]
        exported = _run(
            env, "export", "--backend", backend, "--model", model, *weight_flags, *export_flags
        )
        thread_flags = [] if threads is None else ["--threads", str(threads)]
        started = time.perf_counter()
        _run(env, "up", "--backend", backend, "--launcher", "embedded", *thread_flags)
        seconds = time.perf_counter() - started
        try:
            record = json.loads(_run(env, "ps", "--output", "json"))[0]
            grpc_endpoint, rest_endpoint = (
                f"{record['host']}:{record[port]}" for port in ("grpc_port", "rest_port")
            )
            path = Path(exported.splitlines()[0])
            yield ServedModel(
                grpc_endpoint, rest_endpoint, model, path, env, record["pid"], seconds
            )
        finally:
            _run(env, "down", "--all")


def _run(env: dict[str, str], *args: str) -> str:
    done = subprocess.run(
        [*MLSERVE, *args], env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout
