"""TorchServe's inference API over gRPC: requests in, bodies out, no I/O.

The service is `org.pytorch.serve.grpc.inference.InferenceAPIsService` of TorchServe 0.12. A handler
sees the entries of a request's `input`, but not its metadata. By TorchServe's custom a file is the
entry `data`; `body` is what a REST request has in its body.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlserve.client.adapter import Call, Reply
from mlserve.client.protobuf import parse_message
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.proto import torchserve_pb2

_LONGEST_LINE = 20
_SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


class TorchServeGrpc:
    """The gRPC form of `mlserve.client.torchserve_session.Envelope`."""

    def ping_call(self) -> Call:
        return Call(_SERVICE + "Ping", b"")

    def file_call(self, model: str, version: str, file: bytes) -> Call:
        return _predictions(model, version, {"data": file})

    def call(self, model: str, version: str, body: bytes | None, about: Mapping[str, str]) -> Call:
        entries = {key: value.encode() for key, value in about.items()}
        return _predictions(model, version, {**entries, "body": body or b""})

    def health(self, reply: Reply) -> bytes:
        return parse_message(torchserve_pb2.TorchServeHealthResponse, reply.body).health.encode()

    def answer(self, reply: Reply) -> Reply:
        said = parse_message(torchserve_pb2.PredictionResponse, reply.body).prediction
        # Where binary tensors follow the JSON, mlserve's handler says its length in a line before.
        length, newline, rest = said[:_LONGEST_LINE].partition(b"\n")
        if newline and length.isdigit():
            headers = {**reply.headers, JSON_LENGTH: length.decode()}
            return Reply(rest + said[_LONGEST_LINE:], headers)
        return Reply(said, reply.headers)


def _predictions(model: str, version: str, entries: Mapping[str, bytes]) -> Call:
    request = torchserve_pb2.PredictionsRequest(
        model_name=model, model_version=version, input=entries
    )
    return Call(_SERVICE + "Predictions", request.SerializeToString())
