"""A session with TorchServe, whose API carries bytes that only the model's handler understands.

The handler of `mlserve up --launcher native` answers the REST requests of the Open Inference
Protocol, passed on in TorchServe's own; it is asked as any server of that protocol. Any other
handler is sent the image file itself and must answer with labels, as TorchServe's own
`image_classifier` does. A look at the model's metadata tells which it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import unquote

from mlserve.client.adapter import Call, ImageRequest, ModelRef, Reply, Transport
from mlserve.client.answers import Answer, ModelMetadata, VersionStatus
from mlserve.client.codecs import excerpt, parse_any_json, parse_json
from mlserve.client.oip_rest import BINARY, OipRest
from mlserve.client.oip_session import OipSession
from mlserve.client.refusals import NotSpoken, Unreadable, not_an_answer
from mlserve.client.retries import CallState
from mlserve.client.session import Session
from mlserve.client.tensor import Tensor
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, UsageError
from mlserve.wire.headers import ASKED, HANDLER_HEADERS, JSON_LENGTH, SIGNATURE

_PATH = re.compile(
    r"/v2/models/(?P<model>[^/?]+)(?:/versions/(?P<version>[^/?]+))?(?:/(?P<verb>infer|ready))?"
    r"(?:\?signature=(?P<signature>.*))?"
)
_SERVER = "/v2"
_ABOUT = json.dumps({"name": "mlserve", "extensions": [BINARY]}).encode()
"""What the tunnel answers to a request for the server's metadata: what the handler can do."""
_HEALTHY = "Healthy"
_UNHEALTHY = re.compile(r'\\?"status\\?": *\\?"(Unhealthy|Partial Healthy)')
_NOT_LOADED = re.compile(r"version (\d+) of \S+ does not load: (.*)", re.DOTALL)
"""How mlserve's handler in TorchServe refuses every request after its model failed to load."""
_ANOTHER_HANDLER = (NotSpoken, InvalidInput, InferenceFailed)
"""What comes of asking a handler for something that it does not know."""
_MOST_OF_A_LABEL = 1000
_NO_LABELS = (
    "predict reads what TorchServe's image_classifier answers; ask this handler at /predictions "
    "yourself, or serve the model with mlserve's own (mlserve up --launcher native)"
)


class Envelope(Protocol):
    """TorchServe's API on one transport: how a body is sent to a model's handler.

    An empty `version` is the default one. `about` are entries that the handler sees beside the
    body. `health` and `answer` return what the server and the handler say, and raise Unreadable;
    the header JSON_LENGTH of an answer is that of the Open Inference Protocol.
    """

    def ping_call(self) -> Call: ...
    def file_call(self, model: str, version: str, file: bytes) -> Call: ...
    def call(
        self, model: str, version: str, body: bytes | None, about: Mapping[str, str]
    ) -> Call: ...
    def health(self, reply: Reply) -> bytes: ...
    def answer(self, reply: Reply) -> Reply: ...


class NotDescribed(UsageError):
    """The model's handler does not say what the model takes; in JSON it is `usage_error`."""

    @property
    def kind(self) -> str:
        return "usage_error"


class TorchServeSession(OipSession):
    """TorchServe's own API. The very first request costs a ping and a look at the metadata."""

    def __init__(self, envelope: Envelope, model: ModelRef, transport: Transport) -> None:
        super().__init__(OipRest(), model, _Tunnel(envelope, transport))
        self._server = Session(transport)
        self._envelope = envelope
        self._is_described = True

    async def predict(self, request: ImageRequest, state: CallState) -> Answer:
        """Return the answer of the model's handler, whoever wrote it."""
        if self._is_described:
            with suppress(NotDescribed):
                return await super().predict(request, state)
        call = self._envelope.file_call(self._model.name, self._version, request.image)
        try:
            answer = await self._server.ask_with_retries(call, self._read_labels, state)
        except NotSpoken as error:  # TorchServe it is: its handler answers something else
            raise error.refusal from error
        self._is_described = False
        return answer

    async def metadata(self, state: CallState, signature: str = "") -> ModelMetadata:
        """Return the model's signatures. Raises NotDescribed if its handler does not know them."""
        await self._require_torchserve(state)
        try:
            return await super().metadata(state, signature)
        except _ANOTHER_HANDLER as error:
            raise NotDescribed(
                f"TorchServe at {self.endpoint} does not describe the model {self._model.name}: "
                f"its handler answers {_refusal(error).message!r}",
                hint="only the handler of mlserve up --launcher native does; predict asks any "
                "handler that takes an image file",
            ) from error

    async def status(self, state: CallState) -> tuple[VersionStatus, ...]:
        """Return the versions that the handler knows; else one row, from the server's health."""
        await self._require_torchserve(state)
        try:
            return await super().status(state)
        except _ANOTHER_HANDLER as error:
            refusal = _refusal(error)
            if failed := _NOT_LOADED.search(refusal.message):
                return (VersionStatus(int(failed[1]), "END", failed[2]),)
            word = "AVAILABLE" if await self._is_healthy(state) else "UNKNOWN"
            return (VersionStatus(self._model.version, word, ""),)

    @property
    def _version(self) -> str:
        return "" if self._model.version is None else str(self._model.version)

    async def _require_torchserve(self, state: CallState) -> None:
        """Raise NotSpoken if the server, which is not known yet, is not TorchServe.

        Any other might run its model on what only a handler understands.
        """
        if not self.is_spoken:
            await self._is_healthy(state)

    async def _is_healthy(self, state: CallState) -> bool:
        """Return whether TorchServe says so. Raises NotSpoken if the answer is not TorchServe's."""
        try:
            answer = await self._server.ask_with_retries(
                self._envelope.ping_call(), self._read_health, state
            )
        except InferenceFailed as error:
            if not _UNHEALTHY.search(error.message):
                raise NotSpoken(error) from error
            answer = ""
        except InvalidInput as error:
            raise NotSpoken(error) from error
        self.is_spoken = True
        return answer == _HEALTHY

    def _read_health(self, reply: Reply) -> str:
        status = parse_json(self._envelope.health(reply)).get("status")
        if not isinstance(status, str):
            raise Unreadable("TorchServe's health", excerpt(reply.body))
        return status

    def _read_labels(self, reply: Reply) -> Answer:
        return Answer(_labels(self._envelope.answer(reply).body), None)


class _Tunnel:
    """A transport that passes the REST requests of the Open Inference Protocol to the handler."""

    def __init__(self, envelope: Envelope, transport: Transport) -> None:
        self.endpoint = transport.endpoint
        self._envelope = envelope
        self._transport = transport
        self._headers: Mapping[str, str] = {}

    async def send(self, call: Call, state: CallState) -> Reply:
        if call.path == _SERVER:
            return Reply(_ABOUT)
        match = _PATH.fullmatch(call.path)
        assert match is not None, call.path
        model, version = unquote(match["model"]), unquote(match["version"] or "")
        about = {} if match["verb"] == "infer" else {ASKED: match["verb"] or "metadata"}
        if match["signature"]:
            about[SIGNATURE] = unquote(match["signature"])
        if JSON_LENGTH in call.headers:
            about[JSON_LENGTH] = call.headers[JSON_LENGTH]
        sent = self._envelope.call(model, version, call.body, about)
        reply = await self._transport.send(sent, state)
        try:
            answer = self._envelope.answer(reply)
            if match["verb"] is None:
                self._headers = _headers(answer.body)
        except Unreadable as error:
            raise NotSpoken(not_an_answer(self.endpoint, error)) from error
        return Reply(answer.body, {**answer.headers, **self._headers})

    async def close(self) -> None:
        await self._transport.close()


def _headers(body: bytes) -> Mapping[str, str]:
    """Return the headers that the handler says with its metadata: its API has no other place.

    Raises Unreadable for the metadata, or anything else, of another handler.
    """
    data = parse_json(body)
    parameters = data.get("parameters")
    headers = parameters.get(HANDLER_HEADERS) if isinstance(parameters, dict) else None
    if not isinstance(headers, dict):
        raise Unreadable("metadata of mlserve's handler", excerpt(body))
    return {str(name): str(value) for name, value in headers.items()}


def _refusal(error: Exception) -> MlserveError:
    if isinstance(error, NotSpoken):
        return error.refusal
    assert isinstance(error, MlserveError)
    return error


def _labels(body: bytes) -> Mapping[str, Tensor]:
    """Return the outputs of a handler's answer: probabilities by label, or a label.

    Raises Unreadable for anything else.
    """
    try:
        said = parse_any_json(body)
    except Unreadable:
        said = _text(body)
    if isinstance(said, list) and len(said) == 1:
        said = said[0]  # a batch of one
    if isinstance(said, str):
        return {"output_0": Tensor((1,), (said,))}
    if _is_scores(said):
        ranked = sorted(said.items(), key=lambda item: -item[1])
        labels, scores = zip(*ranked, strict=True)
        shape = (1, len(ranked))
        return {"labels": Tensor(shape, labels), "scores": Tensor(shape, scores)}
    raise Unreadable("a label, or scores by label", excerpt(body), _NO_LABELS)


def _is_scores(said: Any) -> bool:
    """Return whether these are probabilities by label, and not the sizes of something."""
    if not isinstance(said, dict) or not said:
        return False
    return all(type(value) in (int, float) and 0 <= value <= 1 for value in said.values())


def _text(body: bytes) -> str:
    """Return a short text of one line. Raises Unreadable."""
    try:
        text = body.decode().strip()
    except UnicodeDecodeError as error:
        raise Unreadable("JSON or a label", excerpt(body), _NO_LABELS) from error
    if not text or len(text) > _MOST_OF_A_LABEL or not text.isprintable():
        raise Unreadable("JSON or a label", excerpt(body), _NO_LABELS)
    return text
