"""`:classify` and `:regress` of TensorFlow Serving's REST API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve.deadline import Deadline
from mlserve.server.models.loaded import LoadedVersion
from mlserve.server.models.versions import VersionChoice
from mlserve.server.rest import (
    answer_headers,
    deadline_of,
    json_response,
    read_within,
    while_connected,
)
from mlserve.server.rest_body import content_of, is_encoded, text_of
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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def respond(
        self, request: Request, model: str, version: VersionChoice, verb: str
    ) -> Response:
        """The response to a POST of `:classify` or `:regress`."""
        deadline = deadline_of(request, self._engine.default_timeout)
        self._engine.admit(deadline)  # before the body is read
        settings = self._engine.settings
        body = await read_within(request, deadline, settings.max_request_bytes)
        call = _call(request, model, version, _METHODS[verb], body, settings, deadline)
        with telling_of_servables():
            job = self._engine.enter(call, deadline)
        loaded, answer = await while_connected(request, self._engine.answer(job))
        return json_response(answer, answer_headers(loaded))


def _call(
    request: Request,
    model: str,
    version: VersionChoice,
    method: Method,
    body: bytes,
    settings: ServerSettings,
    deadline: Deadline,
) -> Call[Answer]:
    count = 0

    def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        nonlocal count
        text = text_of(content_of(body, request.headers, settings.max_request_bytes))
        content = json_tensor.parse_body(text, max_depth=settings.max_json_depth)
        name = example_json.signature_of(content)
        examples = example_json.read_examples(content, settings, deadline)
        signature = method.find(signatures, name)
        check_takes_examples(signature)
        count = len(examples)
        return signature, {INPUT: examples}

    def encode(loaded: LoadedVersion, _: Signature, outputs: Tensors) -> Answer:
        rows = method.rows(outputs, count)
        return loaded, json.dumps({"results": rows}, ensure_ascii=False).encode()

    signature = "" if is_encoded(request.headers) else json_tensor.signature_asked(body)
    return Call(model, version, decode, encode, len(body), signature)
