"""One request about an image in both protocols and both APIs: as a message, or by command."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from mlserve.testing.processes import wait_until
from mlserve.testing.questions import predict_method, request_of
from mlserve.wire.proto.inference_pb2 import ModelInferRequest, ModelInferResponse
from mlserve.wire.proto.serving_pb2 import PredictRequest

APIS = ("tfs", "oip")
PHOTO = b"\xff\xd8\xff a photo"
"""The echo backend accepts this as an image."""


@dataclass(frozen=True)
class Asked:
    """A server's addresses and what to request."""

    grpc: str
    rest: str
    model: str = "m"
    version: int | None = None
    image: bytes = PHOTO
    signature: str = "serving_default"
    input: str = "image"
    timeout: float = 10.0

    def endpoint(self, protocol: str) -> str:
        """Return the address for a client; `protocol` is "grpc" or "rest"."""
        return self.grpc if protocol == "grpc" else f"http://{self.rest}"


def ask_grpc(channel: grpc.Channel, asked: Asked, api: str) -> str:
    """Send the request over gRPC; return the name of the status code."""
    infer: grpc.UnaryUnaryMultiCallable[ModelInferRequest, ModelInferResponse]
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )
    try:
        if api == "oip":
            infer(_oip_message(asked), timeout=asked.timeout)
        else:
            predict_method(channel)(_tfs_message(asked), timeout=asked.timeout)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _tfs_message(asked: Asked) -> PredictRequest:
    request = request_of(asked.model, asked.image, signature=asked.signature)
    if asked.input != "image":
        request.inputs[asked.input].CopyFrom(request.inputs["image"])
        del request.inputs["image"]
    if asked.version is not None:
        request.model_spec.version.value = asked.version
    return request


def _oip_message(asked: Asked) -> ModelInferRequest:
    version = "" if asked.version is None else str(asked.version)
    request = ModelInferRequest(model_name=asked.model, model_version=version)
    tensor = request.inputs.add(name=asked.input, datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(asked.image)
    request.parameters["signature"].string_param = asked.signature
    return request


def ask_rest(client: httpx.Client, asked: Asked, api: str) -> httpx.Response:
    """Send the same request as JSON; return the response."""
    headers = {"X-Request-Timeout-Ms": str(round(asked.timeout * 1000))}
    version = "" if asked.version is None else f"/versions/{asked.version}"
    text = asked.image.decode("latin-1")
    body: dict[str, Any]
    if api == "tfs":
        path = f"/v1/models/{asked.model}{version}:predict"
        body = {"signature_name": asked.signature, "inputs": {asked.input: [text]}}
    else:
        path = f"/v2/models/{asked.model}{version}/infer"
        tensor = {"name": asked.input, "shape": [1], "datatype": "BYTES", "data": [text]}
        body = {"inputs": [tensor], "parameters": {"signature": asked.signature}}
    return client.post(f"http://{asked.rest}{path}", json=body, headers=headers)


def hang_up(
    url: httpx.URL | str,
    body: object,
    *,
    once: Callable[[], object],
    headers: Mapping[str, str] | None = None,
    callers: int = 1,
) -> None:
    """Post JSON from so many callers, who leave without an answer as soon as `once` is true.

    A client that leaves by the clock may do so before a busy server has read what it asks.
    """
    url = httpx.URL(url)
    with ExitStack() as waiting:
        for _ in range(callers):
            caller = http.client.HTTPConnection(url.host, url.port)
            waiting.enter_context(closing(caller))
            caller.request("POST", url.path, json.dumps(body), headers or {})
        wait_until(once)


def ask_command(photo: Path, asked: Asked, protocol: str) -> dict[str, tuple[int, str, str]]:
    """Run `mlserve predict` in each API at once: exit code, stdout and stderr of both."""
    options = ["--endpoint", asked.endpoint(protocol), "--model", asked.model]
    options += ["--timeout", str(asked.timeout), "--max-attempts", "2", "--output", "json"]
    if asked.version is not None:
        options += ["--version", str(asked.version)]
    argv = [sys.executable, "-m", "mlserve", "predict", str(photo), *options]
    running = {
        api: subprocess.Popen(
            [*argv, "--api", api],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
        for api in APIS
    }
    outputs = {api: process.communicate(timeout=30) for api, process in running.items()}
    return {api: (running[api].returncode, *outputs[api]) for api in APIS}
