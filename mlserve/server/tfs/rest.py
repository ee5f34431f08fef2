"""TensorFlow Serving's REST API over the engine: status, metadata, predict, classify, regress.

Paths are matched case-insensitively, as in TensorFlow Serving (http_rest_api_handler.cc).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from google.protobuf import json_format

from mlserve.errors import InvalidInput, NotFound
from mlserve.server.body_memory import BodyMemory
from mlserve.server.codec import json_writer
from mlserve.server.codec.images import input_of, is_image_body, read_image_body
from mlserve.server.codec.json_writer import dumps
from mlserve.server.codec.rapidjson import parse_body, shown
from mlserve.server.engine.engine import Engine
from mlserve.server.engine.job import InferenceCall
from mlserve.server.listen.http import (
    BodyCodec,
    RestInference,
    answer_headers,
    check_method,
    contract_headers,
    json_response,
)
from mlserve.server.listen.http_body import Body, content_of, is_encoded, text_of
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Headers, Request, Response
from mlserve.server.models.loading import Served
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadStatus, VersionChoice
from mlserve.server.request import Purpose, current
from mlserve.server.tensors import most_rows
from mlserve.server.tfs import json_tensors
from mlserve.server.tfs.classify import (
    CLASSIFY,
    INPUT,
    REGRESS,
    ExampleMethod,
    check_takes_examples,
)
from mlserve.server.tfs.examples import read_json_examples, signature_of
from mlserve.server.tfs.grpc import API
from mlserve.server.tfs.model_spec import (
    signature_over_rest,
    telling_of_servables,
    telling_of_versions,
    version_number,
)
from mlserve.server.tfs.signature_defs import signature_def_map
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature
from mlserve.wire.status import grpc_status

if TYPE_CHECKING:
    from mlserve.backend import Tensors


Answer = tuple[Served, bytes]

_METHODS: Mapping[str, ExampleMethod] = {"classify": CLASSIFY, "regress": REGRESS}


class ExamplesCodec(BodyCodec[Answer]):
    """The body of Classify or Regress."""

    def __init__(self, method: ExampleMethod, body: Body, headers: Headers) -> None:
        super().__init__(body, headers)
        self._method = method
        self._count = 0

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        with self.body.reading():
            content = _read_content(self.body, self.headers, settings)
            name = signature_of(content)
            examples = read_json_examples(content, settings, self.body.deadline)
        signature = self._method.find(signatures, name)
        check_takes_examples(signature)
        self._count = len(examples)
        return signature, {INPUT: examples}

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> Answer:
        rows = self._method.rows(outputs, self._count)
        text = json_writer.list_text([dumps(row)] for row in rows)
        return served, "".join(json_writer.object_text({"results": text})).encode()


class PredictCodec(BodyCodec[Answer]):
    """The body of Predict: JSON, or image files."""

    def __init__(self, body: Body, headers: Headers) -> None:
        super().__init__(body, headers)
        self._is_row_form = False

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        with self.body.reading():
            signature, inputs, self._is_row_form = _read_predict(
                self.body, self.headers, signatures, settings
            )
        return signature, inputs

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> Answer:
        return served, json_tensors.write_outputs(signature, outputs, as_rows=self._is_row_form)


def _read_content(body: Body, headers: Headers, settings: ServerSettings) -> Mapping[str, Any]:
    sent = content_of(body.content, headers, settings.max_request_bytes, body.room)
    text = text_of(sent, body.room)
    body.forget(sent)
    return parse_body(text, max_depth=settings.max_json_depth, room=body.room)


_VERBS = ("predict", "classify", "regress")
_PATH = re.compile(
    r"/v1/models(?:/(?P<model>[^/:]+))?"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
    r"(?:(?P<metadata>/metadata)|:(?P<verb>predict|classify|regress))?/?",
    re.IGNORECASE,
)


CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
"""TensorFlow Serving's optional CORS headers, for pages of every origin (http_rest_api_util.cc)."""


class TfsRestService:
    """The REST protocol of TensorFlow Serving."""

    def __init__(self, engine: Engine, models: Models, memory: BodyMemory) -> None:
        self._settings = engine.settings
        self._models = models
        self._inference = RestInference(engine, models, memory)

    def match(self, path: str) -> Operation | None:
        """Return the operation for a path under `/v1/models`; None for any other."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        return Operation(API, _purpose(match), partial(self._respond, match))

    def _respond(self, match: re.Match[str], request: Request) -> Awaitable[Response]:
        if request.method == "OPTIONS" and "origin" in request.headers:
            return _told(Response())  # a browser's preflight request; the headers answer it
        verb = (match["verb"] or "").lower()
        if request.method == "POST" and not verb:
            _check_colon(request, unquote(match["model"] or ""))
        check_method(request, "POST" if verb else "GET")
        if match["model"] is None:
            raise InvalidInput("Missing model name in request.")
        model = unquote(match["model"])
        version: VersionChoice = version_number(match["version"]) if match["version"] else None
        version = self._models.latest_for_zero(model, version)
        if match["label"]:
            version = unquote(match["label"])
        if verb:
            return self._infer(request, model, version, verb)
        tell = self._metadata if match["metadata"] else self._status
        return _told(tell(model, version))

    def _infer(
        self, request: Request, model: str, version: VersionChoice, verb: str
    ) -> Awaitable[Response]:
        def read(body: Body) -> InferenceCall[Answer]:
            sent, headers = body.content, request.headers
            is_predict = verb == "predict"
            codec = (
                PredictCodec(body, headers)
                if is_predict
                else ExamplesCodec(_METHODS[verb], body, headers)
            )
            is_unread = is_encoded(headers) or (is_predict and is_image_body(sent, headers))
            signature = "" if is_unread else json_tensors.signature_asked(sent)
            return InferenceCall(model, version, body.deadline, codec, len(sent), signature)

        with telling_of_servables():
            answering = self._inference.answer(request, model, version, read)
        return _inferred(answering)

    def _status(self, model: str, version: VersionChoice) -> Response:
        with telling_of_versions():
            statuses = self._models.known_statuses(model, version)
        return _indented({"model_version_status": [_status_json(item) for item in statuses]})

    def _metadata(self, model: str, version: VersionChoice) -> Response:
        with telling_of_servables():
            loaded = self._models.lease(model, version)
        with loaded:
            current().served_by = loaded.standing.served_by
            signatures = json_format.MessageToDict(
                signature_def_map(loaded.runner),
                always_print_fields_with_no_presence=True,
                preserving_proto_field_name=True,
            )
        spec = {"name": model, "signature_name": "", "version": str(loaded.version)}
        body = {"model_spec": spec, "metadata": {"signature_def": signatures}}
        return _indented(body, contract_headers(loaded.contract))


async def _told(response: Response) -> Response:
    """Return what is known already."""
    return response


async def _inferred(answering: Awaitable[Answer]) -> Response:
    with telling_of_servables():
        served, answer = await answering
    return json_response(answer, answer_headers(served))


def _purpose(match: re.Match[str]) -> Purpose:
    if match["verb"]:
        return Purpose.PREDICT
    if match["model"] is None:
        return Purpose.OTHER
    return Purpose.METADATA if match["metadata"] else Purpose.PROBE


def _check_colon(request: Request, model: str) -> None:
    """Raise NotFound for `/v1/models/m%3Apredict`, which names neither a model nor a path."""
    name, colon, verb = model.rpartition(":")
    if colon and verb.lower() in _VERBS:
        raise NotFound(
            f"Malformed request: the colon before {verb!r} is escaped as %3A in the path; ask "
            f"{request.method} /v1/models/{name}:{verb}"
        )


def _read_predict(
    body: Body, headers: Headers, signatures: Mapping[str, Signature], settings: ServerSettings
) -> tuple[Signature, Tensors, bool]:
    """Return the body's signature, its inputs, and whether it is in row form."""
    sent = content_of(body.content, headers, settings.max_request_bytes, body.room)
    if is_image_body(sent, headers):
        image_body = read_image_body(sent, headers, settings, body.room)
        signature = signature_over_rest(signatures, image_body.signature)
        return signature, input_of(signature, image_body.files, settings), True
    text = text_of(sent, body.room)
    body.forget(sent)
    del sent
    content = parse_body(
        text,
        max_depth=settings.max_json_depth,
        most_rows=most_rows(signatures.values(), settings.max_batch_length),
        room=body.room,
    )
    del text
    name = content.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidInput(
            f"JSON Value: {shown(name)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    signature = signature_over_rest(signatures, name)
    is_row_form = json_tensors.is_row_form(content)
    return signature, json_tensors.read_inputs(signature, content, settings), is_row_form


def _status_json(status: LoadStatus) -> dict[str, Any]:
    code = "OK" if status.error is None else grpc_status(status.error)
    message = "" if status.error is None else status.error.message
    return {
        "version": str(status.version),
        "state": status.state.name,
        "status": {"error_code": code, "error_message": message},
    }


def _indented(data: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return json_response(json.dumps(data, indent=1).encode() + b"\n", headers)
