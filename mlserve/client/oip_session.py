"""The Open Inference Protocol, version 2: a model is looked at before it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from mlserve.client import signature_choice
from mlserve.client.adapter import (
    Answer,
    Api,
    ModelRef,
    OipAdapter,
    Question,
    Reply,
    SignatureChoice,
    number_of,
)
from mlserve.client.answers import ModelMetadata, VersionStatus
from mlserve.client.call import CallState
from mlserve.client.oip_rest import BINARY
from mlserve.client.refusals import NotSpoken, refuses_binary, tells_not_ready
from mlserve.client.session import Line
from mlserve.client.signature_choice import Plans
from mlserve.deadline import Deadline
from mlserve.errors import (
    InferenceFailed,
    InvalidInput,
    MlserveError,
    NotFound,
    Unavailable,
    UsageError,
)

_NOT_READY = (InvalidInput, NotFound, Unavailable)
"""What servers refuse the question for readiness with."""


class OipDialogue:
    """The Open Inference Protocol. The first question of all costs one look at the metadata."""

    api: ClassVar[Api] = "oip"

    def __init__(self, adapter: OipAdapter, line: Line, model: ModelRef) -> None:
        self._adapter, self._line, self._model = adapter, line, model
        self._plans: Plans | None = None
        self._is_binary = True
        self._declares_binary = False

    @property
    def is_spoken(self) -> bool:
        return self._line.has_answered

    async def recognise(self, deadline: Deadline, state: CallState) -> None:
        """Nothing: the first question begins with a look at the metadata."""

    async def predict(
        self, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        """The answer, in labels and scores where the server can give them."""
        if self._plans is not None:
            return await self._infer_enough(self._plans, question, deadline, state)
        plans = signature_choice.choose_nameless(await self.metadata(deadline, state))
        self._is_binary = await self._takes_binary(deadline, state)
        try:
            return await self._infer_enough(plans, question, deadline, state)
        except NotSpoken as error:
            raise error.refusal from error  # with such metadata it does speak the API

    async def metadata(self, deadline: Deadline, state: CallState) -> ModelMetadata:
        call = self._adapter.metadata_call(self._model)
        found, reply = await self._line.ask(
            call, lambda reply: self._adapter.read_metadata(self._model, reply), deadline, state
        )
        return replace(found, contract=reply.contract)

    async def status(self, deadline: Deadline, state: CallState) -> tuple[VersionStatus, ...]:
        """The versions that the metadata lists, each asked whether it is ready."""
        version = self._model.version
        listed = ("",) if version is None else (str(version),)
        call = self._adapter.metadata_call(self._model)
        try:
            versions, _ = await self._line.ask(call, self._adapter.read_versions, deadline, state)
        except Unavailable as error:
            if not tells_not_ready(error):
                raise
            versions = ()  # no description of a model that loads, but an answer whether it is ready
        asked = listed if version is not None else versions or listed
        rows = [await self._version_status(version, deadline, state) for version in asked]
        return tuple(sorted(rows, key=lambda row: -1 if row.version is None else -row.version))

    async def _infer_enough(
        self, plans: Plans, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        """The answer, asked for again where the first has too few of the model's classes."""
        plan = plans.plan_for(question)
        answer, reply = await self._infer(plan, question, deadline, state)
        plans = plans.learnt(plan, answer)
        more = plans.plan_for_more(question, plan, answer)
        if more:
            plan = more
            answer, reply = await self._infer(plan, question, deadline, state)
            plans = plans.learnt(plan, answer)
        self._plans = plans
        return replace(answer, has_all_classes=plans.has_all_classes(plan, answer)), reply

    async def _infer(
        self, plan: SignatureChoice, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        """The answer; a server that cannot read binary data after all is asked once in base64."""
        plan = replace(plan, is_binary=self._is_binary)
        try:
            return await self._ask(plan, question, deadline, state)
        except MlserveError as error:
            is_last = self._line.protocol == "grpc" or not plan.is_binary or self._plans is not None
            if is_last or not refuses_binary(error, is_declared=self._declares_binary):
                raise
            plan = replace(plan, is_binary=False)
            try:
                found = await self._ask(plan, question, deadline, state)
            except (InvalidInput, InferenceFailed):
                raise error from None  # the form was not what the server failed on
        self._is_binary = False
        return found

    async def _ask(
        self, plan: SignatureChoice, question: Question, deadline: Deadline, state: CallState
    ) -> tuple[Answer, Reply]:
        return await self._line.infer(self._adapter, self._model, plan, question, deadline, state)

    async def _takes_binary(self, deadline: Deadline, state: CallState) -> bool:
        """Whether the image may follow the JSON as it is: a server that does not say is tried."""
        call = self._adapter.extensions_call()
        if call is None:
            return True
        try:
            known, _ = await self._line.ask(call, self._adapter.read_extensions, deadline, state)
        except (NotSpoken, UsageError, InferenceFailed):
            return True
        self._declares_binary = BINARY in known
        return self._declares_binary

    async def _version_status(
        self, version: str, deadline: Deadline, state: CallState
    ) -> VersionStatus:
        call, error = self._adapter.ready_call(self._model, version), ""
        try:
            is_ready, _ = await self._line.ask(call, self._adapter.read_ready, deadline, state)
        except NotSpoken:
            is_ready = False  # Triton's whole answer is an empty body with an error status
        except _NOT_READY as refusal:
            is_ready, error = False, refusal.message
        return VersionStatus(number_of(version), "AVAILABLE" if is_ready else "UNKNOWN", error)
