"""Ask about any signature of a model, whose description is asked for once, and kept."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from mlserve.client.adapter import InferRequest, SentRequest
from mlserve.client.answers import Answer
from mlserve.client.oip import FUNCTION
from mlserve.client.outputs import typed
from mlserve.client.question import AskedSignature, Question, checked_request, signature_named
from mlserve.client.refusals import NotSpoken, Unreadable, not_an_answer, refuses_signature
from mlserve.client.retries import CallState
from mlserve.client.session import ModelSession, TfsSession
from mlserve.errors import InvalidInput, NotFound, UsageError
from mlserve.tensors import Signature

_UNFIT = (UsageError, InvalidInput, NotFound)
"""What may be because the model is another one now; their subclasses are about other things."""


def inference_over(session: ModelSession) -> Inference:
    """Return what asks about signatures over that session."""
    return (TfsInference if isinstance(session, TfsSession) else OipInference)(session)


@dataclass(eq=False, slots=True)
class _Description:
    """What the server has said of a signature, and the version that it is true of, once known.

    Calls that began with it keep it, whatever others learn meanwhile.
    """

    asked: AskedSignature
    version: int | None = None


class Inference(ABC):
    """Questions about the signatures of one model, in one API."""

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        self._kept: dict[str | None, _Description] = {}
        self._locks = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()

    async def ask(self, question: Question, state: CallState) -> Answer:
        """Return the outputs, with their types, once the inputs have been found to fit.

        The description of the signature is asked for again when something does not fit it, here or
        on the server, and when another version answers. Raises as `Client.infer` does, and
        NotSpoken if the server does not speak the API.
        """
        is_kept = question.signature in self._kept
        known = await self._described(question.signature, state)
        try:
            return await self._ask(known, question, state)
        except UsageError as error:
            if not is_kept or type(error) not in _UNFIT:
                raise
            now = await self._described(question.signature, state, stale=known)
            if now.asked == known.asked:
                raise
        return await self._ask(now, question, state)

    async def prepare(self, question: Question, state: CallState) -> SentRequest:
        """Return the request that `ask` sends, and do not send it. Raises as `ask` does."""
        known = await self._described(question.signature, state)
        state.enter("read", "reading the inputs")
        return self._session.as_sent(self._request(known.asked, question))

    @abstractmethod
    async def _describe(self, name: str | None, state: CallState) -> None:
        """Ask the server about that signature, and keep what it says; None is the default one.

        Raises NotFound for an unknown one, and UsageError if there are several, or none.
        """

    def _request(self, asked: AskedSignature, question: Question) -> InferRequest:
        """Return the request of the question. Raises InvalidInput if the inputs do not fit."""
        return checked_request(asked, question)

    async def _described(
        self, name: str | None, state: CallState, *, stale: _Description | None = None
    ) -> _Description:
        """Return the description that is kept; if that is the `stale` one, all are asked for anew.

        Raises as `_describe` does.
        """
        lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:  # calls that begin together ask once
            if stale is not None and self._kept.get(name) is stale:
                self._kept.clear()
            if name not in self._kept:
                await self._describe(name, state)
            known = self._kept[name]
            if stale is not None and known.version is None:
                known.version = stale.version  # until another one answers
            return known

    async def _ask(self, known: _Description, question: Question, state: CallState) -> Answer:
        state.enter("read", "reading the inputs")
        request = self._request(known.asked, question)
        try:
            answer = await self._session.send(request, state, is_bounded=False)
        except NotSpoken as error:
            raise error.refusal from error  # the description proves that it speaks the API
        if known.version is not None and answer.version not in (None, known.version):
            known = await self._described(question.signature, state, stale=known)
        known.version = known.version if answer.version is None else answer.version
        try:
            outputs = typed(answer.outputs, known.asked.signature, request.outputs)
        except Unreadable as error:
            raise not_an_answer(self._session.endpoint, error) from error
        return replace(answer, outputs=outputs, signature=known.asked.sent_as)


class TfsInference(Inference):
    """TensorFlow Serving's API, version 1: its metadata has all signatures."""

    async def _describe(self, name: str | None, state: CallState) -> None:
        metadata = await self._session.metadata(state)
        for signature in metadata.signatures:
            asked = AskedSignature(metadata.model, signature, signature.name)
            self._kept[signature.name] = _Description(asked, metadata.version)
        names = [signature.name for signature in metadata.signatures]
        self._kept[name] = self._kept[signature_named(metadata.model, names, name)]

    def _request(self, asked: AskedSignature, question: Question) -> InferRequest:
        request = super()._request(asked, question)
        if self._session.endpoint.protocol == "rest":
            from mlserve.client.tfs_rest import require_json_form  # gRPC needs no JSON

            for spec in asked.signature.inputs_in(request.inputs):
                require_json_form(spec, request.inputs[spec.name])
        return request


class OipInference(Inference):
    """The Open Inference Protocol: one nameless function, or one signature of our own servers."""

    async def _describe(self, name: str | None, state: CallState) -> None:
        try:
            metadata = await self._session.metadata(state, name or "")
        except NotFound as error:
            if refuses_signature(error):  # the server's message names those that there are
                error.hint = "choose one of them with {signature NAME}"
            raise
        sent_as = ""
        if metadata.selectable:
            sent_as = signature_named(metadata.model, metadata.selectable, name)
        elif name not in (None, FUNCTION):
            raise NotFound(
                f"the server at {self._session.endpoint} knows no signatures, so not {name!r}: "
                f"its model {metadata.model} is one nameless function",
                hint="leave {signature} out",
            )
        if not metadata.signatures:
            raise UsageError(
                f"the model {metadata.model} has an input or an output of a type that no request "
                "can carry",
                hint="see its inputs and outputs with mlserve metadata",
            )
        signature = _of_any_rank(metadata.signatures[0])
        self._kept[name] = _Description(AskedSignature(metadata.model, signature, sent_as))


def _of_any_rank(signature: Signature) -> Signature:
    """Return the signature with unknown shapes for [-1], which mlserve writes for any shape."""
    inputs = (replace(i, shape=None) if i.shape == (None,) else i for i in signature.inputs)
    return replace(signature, inputs=tuple(inputs))
