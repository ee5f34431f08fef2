"""One API spoken to one server about one model, and what was learnt of the model on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Protocol, TypeVar

from mlserve.client import signature_choice
from mlserve.client.adapter import (
    Adapter,
    Answer,
    Api,
    Call,
    ModelRef,
    Question,
    Reply,
    SignatureChoice,
    TfsAdapter,
    Transport,
)
from mlserve.client.answers import ModelMetadata, ServerLoad, VersionStatus
from mlserve.client.call import CallState
from mlserve.client.codecs import parse_json
from mlserve.client.endpoint import Endpoint, ProtocolName
from mlserve.client.refusals import NotSpoken, Unreadable, not_an_answer, refuses_plan
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, Transient

T = TypeVar("T")


class Dialogue(Protocol):
    """The three questions in one API.

    All raise `NotSpoken` when the server does not speak it, or answers with something else.
    """

    api: ClassVar[Api]

    @property
    def is_spoken(self) -> bool:
        """Whether the server has given an answer in this API."""

    async def recognise(self, deadline: Deadline, state: CallState) -> None:
        """Finds out whether the server speaks the API where a question would do more than ask."""

    async def predict(
        self, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]: ...
    async def metadata(self, deadline: Deadline, state: CallState) -> ModelMetadata: ...
    async def status(self, deadline: Deadline, state: CallState) -> tuple[VersionStatus, ...]: ...


class Line:
    """A transport to an endpoint, whose replies are read: what is no answer is `NotSpoken`."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self.has_answered = False

    @property
    def protocol(self) -> str:
        return self._endpoint.protocol

    async def ask(
        self, call: Call, read: Callable[[Reply], T], deadline: Deadline, state: CallState
    ) -> tuple[T, Reply]:
        """What `read` makes of the reply to the call, and the reply; asked again if it may be."""
        return await self._persist(lambda: call, read, deadline, state)

    async def _persist(
        self,
        call: Callable[[], Call],
        read: Callable[[Reply], T],
        deadline: Deadline,
        state: CallState,
    ) -> tuple[T, Reply]:
        """Asks, and after a transient error again: `call` is made anew for the time that is left.

        The last error is raised at once when the next attempt would come after the deadline.
        """
        while True:
            before = state.spent_so_far()
            try:
                return await self._once(call(), read, deadline, state)
            except Transient as error:
                pause = state.pause(error)
                if pause >= deadline.remaining():
                    raise
                state.begin_again(error, pause, before)
            await asyncio.sleep(pause)

    async def _once(
        self, call: Call, read: Callable[[Reply], T], deadline: Deadline, state: CallState
    ) -> tuple[T, Reply]:
        reply = await self._transport.send(call, deadline, state)
        try:
            found = read(reply)
        except Unreadable as error:
            raise NotSpoken(not_an_answer(self._endpoint, error)) from error
        self.has_answered = True
        return found, reply

    async def infer(
        self,
        adapter: Adapter,
        model: ModelRef,
        plan: SignatureChoice,
        question: Question,
        deadline: Deadline,
        state: CallState,
    ) -> tuple[Answer, Reply]:
        """The answer to the question, which takes the time left along."""

        def call() -> Call:
            left = deadline.require(state.doing)
            return adapter.predict_call(model, plan, question, left)

        def read(reply: Reply) -> Answer:
            answer = adapter.read_answer(reply)
            if plan.scores is None:
                return answer
            from mlserve.client.oip import with_classes  # the other API costs nothing

            return replace(answer, outputs=with_classes(answer.outputs, plan.scores))

        return await self._persist(call, read, deadline, state)


class TfsDialogue:
    """TensorFlow Serving's API, version 1: mlserve's own signature is asked before any metadata."""

    api: ClassVar[Api] = "tfs"

    def __init__(self, adapter: TfsAdapter, line: Line, model: ModelRef) -> None:
        self._adapter, self._line, self._model = adapter, line, model
        self._plans = signature_choice.FIRST
        self._are_declared = False
        self._answered: set[str] = set()

    @property
    def is_spoken(self) -> bool:
        return self._line.has_answered

    async def recognise(self, deadline: Deadline, state: CallState) -> None:
        """Asks over REST for the status, which no other server has in this form.

        KServe has an API of its own at the same paths, and runs its model on whatever JSON comes.
        """
        if self._line.protocol != "rest":
            return
        try:
            await self.status(deadline, state)
        except (InvalidInput, InferenceFailed) as error:
            raise NotSpoken(error) from error

    async def predict(
        self, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        """The answer; a first refusal of the signature costs one look at the metadata.

        So does a first answer with fewer classes than are wanted, and one more question where the
        model has more of them.
        """
        plan = self._plans.plan_for(question)
        try:
            answer, reply = await self._infer(plan, question, deadline, state)
        except MlserveError as error:
            plan = await self._another(plan, question, error, deadline, state)
            answer, reply = await self._infer(plan, question, deadline, state)
        if self._plans.plan_for_more(question, plan, answer) and not self._are_declared:
            await self._look(deadline, state)
        more = self._plans.plan_for_more(question, plan, answer)
        if more:
            plan = more
            answer, reply = await self._infer(plan, question, deadline, state)
        is_whole = self._plans.has_all_classes(plan, answer)
        return replace(answer, has_all_classes=is_whole), reply

    async def _another(
        self,
        plan: SignatureChoice,
        question: Question,
        error: MlserveError,
        deadline: Deadline,
        state: CallState,
    ) -> SignatureChoice:
        """The plan that the metadata show when that one was refused; else raises the error.

        A ranking may be gone after it has answered: another version is served now.
        """
        has_answered = plan.signature in self._answered
        if not refuses_plan(error):
            raise error
        if has_answered and plan.signature != signature_choice.RANKING.signature:
            raise error
        await self._look(deadline, state)
        other = self._plans.plan_for(question)
        if other.is_same_question(plan):
            raise error  # the server does have it: the refusal was about something else
        return other

    async def _look(self, deadline: Deadline, state: CallState) -> None:
        """Takes the plans from the metadata."""
        self._plans = signature_choice.choose(await self.metadata(deadline, state))
        self._are_declared = True

    async def metadata(self, deadline: Deadline, state: CallState) -> ModelMetadata:
        call = self._adapter.metadata_call(self._model)
        found, reply = await self._line.ask(
            call, lambda reply: self._adapter.read_metadata(self._model, reply), deadline, state
        )
        return replace(found, contract=reply.contract)

    async def status(self, deadline: Deadline, state: CallState) -> tuple[VersionStatus, ...]:
        call = self._adapter.status_call(self._model)
        found, _ = await self._line.ask(call, self._adapter.read_status, deadline, state)
        return found

    async def _infer(
        self, plan: SignatureChoice, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        found = await self._line.infer(self._adapter, self._model, plan, question, deadline, state)
        self._answered.add(plan.signature)
        self._plans = self._plans.learnt(plan, found[0])
        return found


def load_call(protocol: ProtocolName) -> Call:
    """The Open Inference Protocol's question for the server's metadata."""
    if protocol == "grpc":
        return Call("/inference.GRPCInferenceService/ServerMetadata", b"")
    return Call("/v2", None)


def read_load(protocol: ProtocolName, reply: Reply) -> ServerLoad | None:
    """The load; None when the answer does not say all of it."""
    try:
        said = reply.about_server if protocol == "grpc" else parse_json(reply.body)["parameters"]
        return ServerLoad(
            running=int(said["running"]),
            waiting=int(said["waiting"]),
            max_queue=int(said["max_queue"]),
            default_timeout=float(said["default_timeout"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError):
        return None  # another maker's server, or another version of ours
