"""`:classify` and `:regress` of TensorFlow Serving's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve.server import json_writing
from mlserve.server.json_writing import dumps
from mlserve.server.models.loaded import LoadedVersion
from mlserve.server.models.versions import VersionChoice
from mlserve.server.port.body_memory import BodyMemory
from mlserve.server.rest import (
    answer_headers,
    deadline_of,
    json_response,
    received,
    while_connected,
)
from mlserve.server.rest_body import Body, content_of, is_encoded, text_of
from mlserve.server.tfs import example_json, json_tensor
from mlserve.server.tfs.inference import (
    CLASSIFY,
    INPUT,
    REGRESS,
    Method,
    check_takes_examples,
)
from mlserve.server.tfs.model_spec import telling_of_servables
from mlserve.server.work.engine import Call, Engine
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

    Answer = tuple[LoadedVersion, bytes]

_METHODS: Mapping[str, Method] = {"classify": CLASSIFY, "regress": REGRESS}


class InferenceRest:
    """The two calls that take examples."""

    def __init__(self, engine: Engine, memory: BodyMemory) -> None:
        self._engine = engine
        self._memory = memory

    async def respond(
        self, request: Request, model: str, version: VersionChoice, verb: str
    ) -> Response:
        """The response to a POST of `:classify` or `:regress`."""
        deadline = deadline_of(request, self._engine.default_timeout)
        self._engine.admit(deadline)  # before the body is read
        settings = self._engine.settings
        async with received(request, deadline, settings.max_request_bytes, self._memory) as body:
            call = _call(request, model, version, _METHODS[verb], body, settings)
            with telling_of_servables():
                job = self._engine.enter(call, deadline)
            loaded, answer = await while_connected(request, self._engine.answer(job))
        return json_response(answer, answer_headers(loaded))


def _call(
    request: Request,
    model: str,
    version: VersionChoice,
    method: Method,
    body: Body,
    settings: ServerSettings,
) -> Call[Answer]:
    count = 0

    def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        nonlocal count
        with body.reading():
            content = _read(body, request, settings)
            name = example_json.signature_of(content)
            examples = example_json.read_examples(content, settings, body.deadline)
        signature = method.find(signatures, name)
        check_takes_examples(signature)
        count = len(examples)
        return signature, {INPUT: examples}

    def encode(loaded: LoadedVersion, _: Signature, outputs: Tensors) -> Answer:
        rows = json_writing.list_text([dumps(row)] for row in method.rows(outputs, count))
        return loaded, "".join(json_writing.object_text({"results": rows})).encode()

    sent = body.content
    signature = "" if is_encoded(request.headers) else json_tensor.signature_asked(sent)
    return Call(model, version, decode, encode, len(sent), signature)


def _read(body: Body, request: Request, settings: ServerSettings) -> Mapping[str, Any]:
    sent = content_of(body.content, request.headers, settings.max_request_bytes, body.room)
    text = text_of(sent, body.room)
    body.forget(sent)
    return json_tensor.parse_body(text, max_depth=settings.max_json_depth, room=body.room)
