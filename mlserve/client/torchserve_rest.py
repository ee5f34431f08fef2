"""TorchServe's inference API over REST: requests in, bodies out, no I/O.

Paths are those of TorchServe 0.12: `GET /ping`, `POST /predictions/MODEL[/VERSION]`. What a body
means is the business of the model's handler, which sees the request's headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from mlserve.client.adapter import Call, Reply
from mlserve.wire.headers import over_http

_OWN = "mlserve-"


class TorchServeRest:
    """The REST form of `mlserve.client.torchserve_session.Envelope`."""

    def ping_call(self) -> Call:
        return Call("/ping", None)

    def file_call(self, model: str, version: str, file: bytes) -> Call:
        return Call(_path(model, version), file, {"content-type": "application/octet-stream"})

    def call(self, model: str, version: str, body: bytes | None, about: Mapping[str, str]) -> Call:
        headers = {over_http(k) if k.startswith(_OWN) else k: v for k, v in about.items()}
        return Call(_path(model, version), body, headers)

    def health(self, reply: Reply) -> bytes:
        return reply.body

    def answer(self, reply: Reply) -> Reply:
        return reply


def _path(model: str, version: str) -> str:
    part = f"/{quote(version, safe='')}" if version else ""
    return f"/predictions/{quote(model, safe='')}{part}"
