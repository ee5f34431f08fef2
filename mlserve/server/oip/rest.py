"""The REST API of the Open Inference Protocol: health, metadata, infer, and the extensions."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, NotFound
from mlserve.server.body_memory import BodyMemory
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.listen.http import (
    BodyCodec,
    RestInference,
    answer_headers,
    check_method,
    contract_headers,
    deadline_of,
    json_response,
    received,
)
from mlserve.server.listen.http_body import Body, Content, content_of, text_of
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Headers, Request, Response
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.oip.extensions import (
    PATIENCE,
    OipExtensions,
    require_no_override,
    require_unnamed,
)
from mlserve.server.oip.json_body import is_small, read_request, write_response
from mlserve.server.oip.metadata import (
    API,
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    OipModels,
    version_of,
)
from mlserve.server.oip.parameters import Parameters
from mlserve.server.oip.request import InferRequest, write_outputs
from mlserve.server.request import Purpose
from mlserve.server.telemetry.recorder import Recorder
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature
from mlserve.wire.headers import JSON_LENGTH

if TYPE_CHECKING:
    from mlserve.backend import Tensors


_Answer = tuple[Served, bytes, bytes | None]

_SERVER = re.compile(r"/v2(?:/health/(?P<health>live|ready))?/?")
_MODEL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?/?"
)
_PURPOSES = {"infer": Purpose.PREDICT, "ready": Purpose.PROBE, None: Purpose.METADATA}
_ABOUT = re.compile(
    r"/v2/models(?:/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?)?/(?P<what>config|stats)/?"
)
_REPOSITORY = re.compile(
    r"/v2/repository(?:/(?P<repository>[^/]+))??"
    r"/(?:index|models/(?P<model>[^/]+)/(?P<verb>load|unload))/?"
)
_MOST_BYTES = 64 * 2**10
"""The largest body of a request about the repository, which holds a few words."""


class OipRestService:
    """The REST protocol of the Open Inference Protocol, version 2."""

    def __init__(
        self,
        engine: Engine,
        models: Models,
        memory: BodyMemory,
        limits: Mapping[str, Any],
        recorder: Recorder | None = None,
    ) -> None:
        self._settings = engine.settings
        self._models = OipModels(engine, models, limits, recorder)
        self._inference = RestInference(engine, models, memory)

    def match(self, path: str) -> Operation | None:
        """Return the operation for a path under `/v2`; None for any other."""
        if match := _SERVER.fullmatch(path):
            if match["health"]:
                respond = partial(self._health, match["health"])
                return Operation(API, Purpose.PROBE, respond, needs_token=False)
            return Operation(API, Purpose.METADATA, self._server_metadata)
        if match := _MODEL.fullmatch(path):
            return Operation(API, _PURPOSES[match["verb"]], partial(self._about_model, match))
        return None

    def _about_model(self, match: re.Match[str], request: Request) -> Awaitable[Response]:
        model = unquote(match["model"])
        if request.method == "POST" and model.endswith("/infer"):
            raise NotFound(
                "Malformed request: the slash before 'infer' is escaped as %2F in the path; ask "
                f"POST /v2/models/{model}"
            )
        check_method(request, "POST" if match["verb"] == "infer" else "GET")
        version = version_of(unquote(match["version"] or ""), model)
        if match["verb"] == "infer":
            return self._infer(request, model, version)
        if match["verb"] == "ready":
            return _told(self._model_ready(model, version))
        return _told(self._metadata(model, version, request.parameter("signature")))

    async def _health(self, kind: str, request: Request) -> Response:
        check_method(request, "GET")
        if kind == "live":
            return _json({"live": True})
        _raise(self._models.why_server_not_ready())
        return _json({"live": True, "ready": True})

    async def _server_metadata(self, request: Request) -> Response:
        check_method(request, "GET")
        described = {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS}
        return _json({**described, "parameters": self._models.limits() | self._models.load()})

    def _model_ready(self, model: str, version: int | None) -> Response:
        _raise(self._models.why_not_ready(model, version))
        return _json({"name": model, "ready": True})

    def _metadata(self, model: str, version: int | None, signature: str) -> Response:
        described = self._models.metadata(model, version, signature)
        answer = described.to_json(self._models.limits())
        return _json(answer, contract_headers(described.contract))

    def _infer(self, request: Request, model: str, version: int | None) -> Awaitable[Response]:
        def read(body: Body) -> InferenceCall[_Answer]:
            codec = InferCodec(body, request.headers)
            hints = codec.look(self._settings)
            asked = model, version, codec.sooner(body.deadline), codec, len(body.content)
            return InferenceCall(*asked, *hints)

        return _inferred(self._inference.answer(request, model, version, read))


class InferCodec(BodyCodec[_Answer]):
    """The body of an inference request; the answer is its JSON, and the bytes behind it if any.

    Long JSON is read on the worker, once admitted.
    """

    def __init__(self, body: Body, headers: Headers) -> None:
        super().__init__(body, headers)
        self._is_read = False
        self._request = InferRequest("", Parameters(), (), ())

    def look(self, settings: ServerSettings) -> tuple[str, int | None]:
        """Return the request's signature and rows, if it is quick to read; else nothing.

        Raises InvalidInput.
        """
        if not is_small(self.body.content, self.headers):
            return "", None
        self._read(settings)
        return self._request.hints()

    def sooner(self, deadline: Deadline) -> Deadline:
        return self._request.sooner(deadline)

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        with self.body.reading():
            if not self._is_read:
                self._read(settings)
            request = self._request
            self._request = replace(request, inputs=(), raw_body=None, files=())
            return request.decode(signatures, settings)

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> _Answer:
        answers = write_outputs(signature, outputs, self._request.outputs)
        return served, *write_response(served, self._request, answers)

    def __reduce__(self) -> tuple[type[InferCodec], tuple[Body, Headers]]:
        return type(self), (self.body, self.headers)

    def _read(self, settings: ServerSettings) -> None:
        self._request = read_request(self.body.content, self.headers, settings, self.body.room)
        self._is_read = True


async def _told(response: Response) -> Response:
    """Return what is known already."""
    return response


async def _inferred(answering: Awaitable[_Answer]) -> Response:
    served, head, tail = await answering
    headers = answer_headers(served)
    if tail is None:
        return json_response(head, headers)
    headers[JSON_LENGTH] = str(len(head))
    return Response(head + tail, headers=headers, media_type="application/octet-stream")


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error


def _json(data: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return json_response(json.dumps(data, ensure_ascii=False).encode(), headers)


class OipRestExtensions:
    """Triton's extensions, matched before `OipRestService`, whose paths look like theirs."""

    def __init__(self, extensions: OipExtensions, memory: BodyMemory) -> None:
        self._extensions = extensions
        self._memory = memory

    def match(self, path: str) -> Operation | None:
        """Return the operation for a path of the extensions; None for any other."""
        if match := _ABOUT.fullmatch(path):
            if match["what"] == "config" and match["model"] is None:
                return None  # the metadata of a model of that name
            return Operation(API, Purpose.METADATA, partial(self._about, match))
        if match := _REPOSITORY.fullmatch(path):
            return Operation(API, Purpose.OTHER, partial(self._repository, match))
        return None

    async def _about(self, match: re.Match[str], request: Request) -> Response:
        check_method(request, "GET")
        model = unquote(match["model"] or "")
        version = version_of(unquote(match["version"] or ""), model)
        if match["what"] == "config":
            return _extension_json(self._extensions.config(model, version))
        return _extension_json({"model_stats": self._extensions.statistics(model, version)})

    async def _repository(self, match: re.Match[str], request: Request) -> Response:
        check_method(request, "POST")
        if match["verb"]:
            self._extensions.require_control(is_from_browser="origin" in request.headers)
        require_unnamed(unquote(match["repository"] or ""))
        deadline = deadline_of(request, PATIENCE)
        async with received(request, deadline, _MOST_BYTES, self._memory) as body:
            content = content_of(body.content, request.headers, _MOST_BYTES)
            options = _object(content, self._extensions.settings.max_json_depth)
        if not match["verb"]:
            return _extension_json(self._extensions.index(only_ready=_is_true(options, "ready")))
        parameters = options.get("parameters", {})
        if not isinstance(parameters, dict):
            raise InvalidInput("'parameters' must be an object")
        require_no_override(list(parameters))
        change = self._extensions.load if match["verb"] == "load" else self._extensions.unload
        await change(unquote(match["model"]), deadline)
        return Response()


def _object(body: Content, max_depth: int) -> dict[str, Any]:
    """Return the JSON object of a body; an empty one for an empty body. Raises InvalidInput."""
    text = text_of(body)
    return parse_body(text, max_depth=max_depth, ignores_rest=False) if text.strip() else {}


def _is_true(options: dict[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} must be a boolean")
    return value


def _extension_json(data: Any) -> Response:
    return json_response(json.dumps(data, ensure_ascii=False).encode())
