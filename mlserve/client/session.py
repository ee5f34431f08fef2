"""A session with one server about one model in one API: choice of signature, and retries.

ModelSession.predict -> ask_with_retries -> retries.with_retries -> Transport.send
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from mlserve.client import signature_choice
from mlserve.client.adapter import (
    Adapter,
    Call,
    ImageRequest,
    InferRequest,
    ModelRef,
    Reply,
    SentRequest,
    SignatureChoice,
    TfsAdapter,
    Transport,
    number_of,
)
from mlserve.client.answers import (
    Answer,
    ModelMetadata,
    VersionStatus,
    read_contract,
    read_line,
)
from mlserve.client.endpoint import Endpoint
from mlserve.client.refusals import NotSpoken, Unreadable, not_an_answer, refuses_signature
from mlserve.client.retries import CallState, with_retries
from mlserve.client.throttle import Throttle
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError
from mlserve.wire.headers import (
    CONTRACT,
    MODEL_VERSION,
    RANDOM_WEIGHTS,
    RUNG,
    SERVED_BY,
    SERVER_TIMING,
    own_header,
    read_server_timing,
)

T = TypeVar("T")
Attributes = dict[str, str | int]
_HTTP_OK = 200


class Session:
    """One server, asked over one transport. `is_spoken`: it is known to speak the API."""

    def __init__(self, transport: Transport) -> None:
        self.endpoint = transport.endpoint
        self.is_spoken = False
        self._transport = transport

    async def ask_with_retries(
        self,
        call: Call | Callable[[float], Call],
        read: Callable[[Reply], T],
        state: CallState,
        throttle: Throttle | None = None,
    ) -> T:
        """Send a call, retry it after transient errors, and return the reply as `read` parses it.

        A call that tells the server its time limit is a function of the seconds left. Where there
        is a `throttle`, it may refuse an attempt in the server's place. Raises NotSpoken for a
        reply that cannot be read.
        """

        async def attempt() -> T:
            request = call if isinstance(call, Call) else call(state.require())
            if state.span is None:
                return self._read(await self._transport.send(request, state), read)
            with state.span.attempt(*_in_words(request, self.endpoint)):
                return self._read(await self._transport.send(request, state), read)

        return await with_retries(throttle.around(attempt, state) if throttle else attempt, state)

    def _read(self, reply: Reply, read: Callable[[Reply], T]) -> T:
        try:
            answer = read(reply)
        except Unreadable as error:
            raise NotSpoken(not_an_answer(self.endpoint, error)) from error
        self.is_spoken = True
        return answer


def _in_words(call: Call, endpoint: Endpoint) -> tuple[str, Attributes, Attributes]:
    """Return the name and the attributes of a call by the semantic conventions for clients.

    The last ones are those of an answer.
    """
    about: Attributes = {"server.address": endpoint.socket or endpoint.host}
    if not endpoint.socket:
        about["server.port"] = endpoint.port
    if endpoint.protocol == "grpc":
        method = call.path.removeprefix("/")
        about |= {"rpc.system.name": "grpc", "rpc.system": "grpc", "rpc.method": method}
        return method, about, {"rpc.response.status_code": "OK"}
    method = "GET" if call.body is None else "POST"
    url = f"{endpoint.scheme}://{endpoint.authority}{endpoint.path}{call.path}"
    about |= {"http.request.method": method, "url.full": url}
    return method, about, {"http.response.status_code": _HTTP_OK}


class ModelSession(Session, ABC):
    """One API spoken about one model, and what was learnt about the model.

    `sent` is the last request that was answered. `throttle` spares a server that refuses what
    `send` sends. Each call raises `NotSpoken` if the server does not speak the API, or answers with
    something else.
    """

    def __init__(self, adapter: Adapter, model: ModelRef, transport: Transport) -> None:
        super().__init__(transport)
        self.throttle: Throttle | None = None
        self.sent: SentRequest | None = None
        self._adapter: Adapter = adapter
        self._model = model

    @abstractmethod
    async def predict(self, request: ImageRequest, state: CallState) -> Answer:
        """Return the answer about an image, in labels and scores if the server can give them."""

    @abstractmethod
    async def status(self, state: CallState) -> tuple[VersionStatus, ...]:
        """Return the versions of the model and their states, latest first."""

    async def metadata(self, state: CallState, signature: str = "") -> ModelMetadata:
        """Return the model's signatures, with the contract that mlserve's own servers add.

        The Open Inference Protocol describes one: the default one, or on mlserve's own servers the
        named `signature`.
        """
        call = self._adapter.metadata_call(self._model, signature)
        return await self.ask_with_retries(call, self._read_metadata, state)

    async def send(
        self, request: InferRequest, state: CallState, *, is_bounded: bool = True
    ) -> Answer:
        """Return the answer of one signature."""
        sent = self.as_sent(request)
        read = partial(self._read_answer, request, is_bounded=is_bounded)
        answer = await self.ask_with_retries(sent.call, read, state, self.throttle)
        self.sent = sent
        return answer

    def as_sent(self, request: InferRequest) -> SentRequest:
        """Return the request as `send` sends it."""
        return SentRequest(self._adapter, self._model, request)

    def _read_metadata(self, reply: Reply) -> ModelMetadata:
        metadata = self._adapter.read_metadata(self._model, reply)
        return replace(
            metadata,
            contract=read_contract(own_header(reply.headers, CONTRACT)),
            served_by=read_line(own_header(reply.headers, SERVED_BY)),
        )

    def _read_answer(self, request: InferRequest, reply: Reply, *, is_bounded: bool) -> Answer:
        answer = self._adapter.read_answer(reply, is_bounded=is_bounded)
        headers = reply.headers
        answer = replace(
            answer,
            has_random_weights=own_header(headers, RANDOM_WEIGHTS) == "1",
            server_ms=read_server_timing(headers.get(SERVER_TIMING, "")),
            served_by=read_line(own_header(headers, SERVED_BY)),
            rungs=read_line(own_header(headers, RUNG)),
        )
        if answer.version is None:
            answer = replace(answer, version=number_of(own_header(headers, MODEL_VERSION)))
        if request.classes is None:
            return answer
        from mlserve.client.oip import with_classes  # imported only if needed

        return replace(answer, outputs=with_classes(answer.outputs, request.classes[0]))


class TfsSession(ModelSession):
    """TensorFlow Serving's API, version 1: asks mlserve's own signature before any metadata."""

    _adapter: TfsAdapter

    def __init__(self, adapter: TfsAdapter, model: ModelRef, transport: Transport) -> None:
        super().__init__(adapter, model, transport)
        self._choices = signature_choice.FIRST
        self._are_declared = False
        self._answered: set[str] = set()

    async def predict(self, request: ImageRequest, state: CallState) -> Answer:
        """Return the answer; a first refusal of the signature costs one look at the metadata.

        So does a first answer with fewer classes than wanted, plus a second request if the model
        has more of them.
        """
        await self._recognise(state)
        choice = self._choices.choice_for(request)
        try:
            answer = await self._infer(choice, request, state)
        except MlserveError as error:
            choice = await self._another(choice, request, error, state)
            answer = await self._infer(choice, request, state)
        if self._choices.choice_for_more(request, choice, answer) and not self._are_declared:
            await self._look(state)
        more = self._choices.choice_for_more(request, choice, answer)
        if more:
            choice = more
            answer = await self._infer(choice, request, state)
        return replace(answer, has_all_classes=self._choices.has_all_classes(choice, answer))

    async def status(self, state: CallState) -> tuple[VersionStatus, ...]:
        call = self._adapter.status_call(self._model)
        return await self.ask_with_retries(call, self._adapter.read_status, state)

    async def _recognise(self, state: CallState) -> None:
        """Over REST, ask for the status first, whose form is unique to this API.

        KServe has its own API at the same paths, and runs its model on any JSON it receives.
        """
        if self.is_spoken or self.endpoint.protocol != "rest":
            return
        try:
            await self.status(state)
        except (InvalidInput, InferenceFailed) as error:
            raise NotSpoken(error) from error

    async def _another(
        self, choice: SignatureChoice, request: ImageRequest, error: MlserveError, state: CallState
    ) -> SignatureChoice:
        """Return another signature from the metadata after one was refused, or raise the error.

        A ranking may disappear after it has answered: another version is served now.
        """
        has_answered = choice.signature in self._answered
        if not refuses_signature(error):
            raise error
        if has_answered and choice.signature != signature_choice.RANKING.signature:
            raise error
        await self._look(state)
        other = self._choices.choice_for(request)
        if other.is_same_request(choice):
            raise error  # the server does have it, so the refusal had another cause
        return other

    async def _look(self, state: CallState) -> None:
        """Choose the signatures from the metadata."""
        self._choices = signature_choice.choose(await self.metadata(state))
        self._are_declared = True

    async def _infer(
        self, choice: SignatureChoice, request: ImageRequest, state: CallState
    ) -> Answer:
        answer = await self.send(choice.request(request), state)
        self._answered.add(choice.signature)
        self._choices = self._choices.learnt(choice, answer)
        return answer
