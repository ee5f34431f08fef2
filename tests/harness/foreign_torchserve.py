"""A simulated server that answers as TorchServe 0.12 does, word for word."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.empty_pb2 import Empty

from mlserve.wire.proto import torchserve_pb2
from tests.harness.foreign import MODEL, Method, Refusal, Response

_SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
NOTHING_THERE = "Requested resource is not found, please refer to API document."


@dataclass
class TorchServeModel:
    """The behaviour of the server, whose one model has a handler that only takes files.

    Each file is answered with the next of `answers`, the last one for ever: a body, or an error.
    `files` are those that it was sent, `asked` the versions that were asked for.
    """

    answers: list[bytes | Refusal]
    health: str = "Healthy"
    files: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def grpc_method(self, path: str) -> Method | None:
        if path == _SERVICE + "Ping":
            return self._ping, Empty
        if path == _SERVICE + "Predictions":
            return self._predictions, torchserve_pb2.PredictionsRequest
        return None

    def rest_response(self, path: str, body: bytes, headers: Any) -> Response:
        if path == "/ping":
            status = 200 if self.health == "Healthy" else 500
            return status, json.dumps({"status": self.health}, indent=2).encode(), {}
        _, kind, model, *version = path.split("/")
        if kind != "predictions":
            return _rest_error(404, "ResourceNotFoundException", NOTHING_THERE)
        try:
            return 200, self._answer(model, "".join(version), body), {}
        except Refusal as refusal:
            return _rest_error(refusal.http, "InternalServerException", refusal.text)

    def _ping(self, _request: Any, _context: Any) -> Any:
        health = json.dumps({"status": self.health}, indent=2)
        return torchserve_pb2.TorchServeHealthResponse(health=health)

    def _predictions(self, request: Any, _context: Any) -> Any:
        try:
            answer = self._answer(
                request.model_name, request.model_version, request.input.get("data", b"")
            )
        except Refusal as refusal:
            text = f"{refusal.text}\norg.pytorch.serve.http.InternalServerException"
            raise Refusal(refusal.code, text, http=refusal.http) from None
        return torchserve_pb2.PredictionResponse(prediction=answer)

    def _answer(self, model: str, version: str, file: bytes) -> bytes:
        if model != MODEL:
            raise Refusal("INTERNAL", f"Model not found: {model}", http=404)
        if not file:  # the handler knows nothing but files
            raise Refusal("UNAVAILABLE", "Prediction failed", http=503)
        self.files.append(file)
        self.asked.append(version)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Refusal):
            raise answer
        return answer


def _rest_error(status: int, kind: str, text: str) -> Response:
    body = json.dumps({"code": status, "type": kind, "message": text}, indent=2)
    return status, body.encode(), {"Content-Type": "application/json"}
