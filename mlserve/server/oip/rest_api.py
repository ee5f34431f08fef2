"""The REST API of the Open Inference Protocol over the engine: health, metadata and infer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.datastructures import Headers  # noqa: TID253
from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve.deadline import Deadline
from mlserve.errors import NotFound
from mlserve.server.models.catalog import Catalog
from mlserve.server.models.loaded import LoadedVersion
from mlserve.server.oip import parameters as oip_parameters
from mlserve.server.oip.json_body import LENGTH_HEADER, is_small, read_request, write_response
from mlserve.server.oip.metadata import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    OipModels,
    version_of,
)
from mlserve.server.oip.request import InferRequest, write_outputs
from mlserve.server.rest import (
    answer_headers,
    check_method,
    contract_headers,
    deadline_of,
    json_response,
    read_within,
    while_connected,
)
from mlserve.server.work.engine import Call, Engine
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_Answer = tuple[LoadedVersion, bytes, bytes | None]

_SERVER = re.compile(r"/v2(?:/health/(?P<health>live|ready))?/?")
_MODEL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?/?"
)


class OipRest:
    """The REST protocol of the Open Inference Protocol, version 2."""

    def __init__(self, engine: Engine, repository: Catalog) -> None:
        self._engine = engine
        self._models = OipModels(engine, repository)

    async def respond(self, request: Request) -> Response | None:
        """The response to a request under `/v2`; None for any other path."""
        path = request.scope["raw_path"].decode("ascii", "replace")
        if match := _SERVER.fullmatch(path):
            check_method(request, "GET")
            return self._health(match["health"]) if match["health"] else self._server_metadata()
        match = _MODEL.fullmatch(path)
        if match is None:
            return None
        model = unquote(match["model"])
        if request.method == "POST" and model.endswith("/infer"):
            raise NotFound(
                "Malformed request: the slash before 'infer' is escaped as %2F in the path; ask "
                f"POST /v2/models/{model}"
            )
        check_method(request, "POST" if match["verb"] == "infer" else "GET")
        version = version_of(unquote(match["version"] or ""), model)
        if match["verb"] == "infer":
            return await self._infer(request, model, version)
        if match["verb"] == "ready":
            return self._model_ready(model, version)
        return self._metadata(model, version, request.query_params.get("signature", ""))

    def _health(self, kind: str) -> Response:
        if kind == "live":
            return _json({"live": True})
        _raise(self._models.why_server_not_ready())
        return _json({"live": True, "ready": True})

    def _server_metadata(self) -> Response:
        known = {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS}
        return _json({**known, "parameters": self._models.limits() | self._models.load()})

    def _model_ready(self, model: str, version: int | None) -> Response:
        _raise(self._models.why_not_ready(model, version))
        return _json({"name": model, "ready": True})

    def _metadata(self, model: str, version: int | None, signature: str) -> Response:
        described = asdict(self._models.metadata(model, version, signature))
        # The protocol has no place for signatures: they stand among its free parameters.
        parameters = {name: described.pop(name) for name in ("signature", "signatures")}
        headers = contract_headers(described.pop("contract"))
        return _json({**described, "parameters": parameters | self._models.limits()}, headers)

    async def _infer(self, request: Request, model: str, version: int | None) -> Response:
        deadline = deadline_of(request, self._engine.default_timeout)
        self._engine.admit(deadline)  # before the body is read
        settings = self._engine.settings
        body = await read_within(request, deadline, settings.max_request_bytes)
        call: Call[_Answer]
        if is_small(body, request.headers):
            asked = read_request(body, request.headers, settings)
            deadline = oip_parameters.sooner(deadline, asked.parameters)
            decode, encode = partial(asked.decode, settings=settings), partial(_encode, asked)
            call = Call(model, version, decode, encode, len(body), *asked.told())
        else:
            long = _LongRequest(body, request.headers, settings)
            call = Call(model, version, long.decode, long.encode, len(body), sooner=long.sooner)
        job = self._engine.enter(call, deadline)
        loaded, head, tail = await while_connected(request, self._engine.answer(job))
        headers = answer_headers(loaded)
        if tail is None:
            return json_response(head, headers)
        headers[LENGTH_HEADER] = str(len(head))
        return Response(head + tail, headers=headers, media_type="application/octet-stream")


class _LongRequest:
    """A request of long JSON, which is read on the worker: not on the loop, and once admitted."""

    def __init__(self, body: bytes, headers: Headers, settings: ServerSettings) -> None:
        self._body = body
        self._headers = headers
        self._settings = settings
        self._asked = InferRequest("", {}, (), ())

    def decode(self, signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        self._asked = read_request(self._body, self._headers, self._settings)
        self._body = b""
        return self._asked.decode(signatures, self._settings)

    def sooner(self, deadline: Deadline) -> Deadline:
        return oip_parameters.sooner(deadline, self._asked.parameters)

    def encode(self, loaded: LoadedVersion, signature: Signature, outputs: Tensors) -> _Answer:
        return _encode(self._asked, loaded, signature, outputs)


def _encode(
    asked: InferRequest, loaded: LoadedVersion, signature: Signature, outputs: Tensors
) -> _Answer:
    answers = write_outputs(signature, outputs, asked.outputs)
    return loaded, *write_response(loaded, asked, answers)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _json(data: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return json_response(json.dumps(data, ensure_ascii=False).encode(), headers)
