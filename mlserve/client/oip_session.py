"""Open Inference Protocol session, version 2: reads a model's metadata before asking it."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from mlserve.client import signature_choice
from mlserve.client.adapter import (
    ImageRequest,
    InferRequest,
    ModelRef,
    OipAdapter,
    Transport,
    number_of,
)
from mlserve.client.answers import Answer, VersionStatus
from mlserve.client.oip_rest import BINARY, NO_NAN
from mlserve.client.refusals import NotSpoken, refuses_binary, tells_not_ready
from mlserve.client.retries import CallState
from mlserve.client.session import ModelSession
from mlserve.client.signature_choice import SignatureChoices
from mlserve.errors import (
    InferenceFailed,
    InvalidInput,
    MlserveError,
    NotFound,
    Unavailable,
    UsageError,
)
from mlserve.wire.tensors import FLOATS

_MLSERVER = "mlserver"
"""The name that MLServer gives itself; its content type base64 is its own."""
_NOT_READY = (InvalidInput, NotFound, Unavailable)
"""Errors by which servers say that a version is not ready."""


class OipSession(ModelSession):
    """The Open Inference Protocol. The very first request costs one look at the metadata."""

    _adapter: OipAdapter

    def __init__(self, adapter: OipAdapter, model: ModelRef, transport: Transport) -> None:
        super().__init__(adapter, model, transport)
        self._choices: SignatureChoices | None = None
        self._is_binary: bool | None = None
        self._declares_binary = False
        self._reads_base64 = False
        self._has_answered = False

    async def predict(self, request: ImageRequest, state: CallState) -> Answer:
        """Return the answer, in labels and scores if the server can give them."""
        if self._choices is not None:
            return await self._infer_enough(self._choices, request, state)
        choices = signature_choice.choose_nameless(await self.metadata(state))
        try:
            return await self._infer_enough(choices, request, state)
        except NotSpoken as error:
            raise error.refusal from error  # such metadata proves that it speaks the API

    async def status(self, state: CallState) -> tuple[VersionStatus, ...]:
        """Return the versions that the metadata lists, each asked whether it is ready."""
        listed = await self._listed_versions(state)
        version = self._model.version
        versions = (listed or ("",)) if version is None else (str(version),)
        rows = [await self._version_status(version, state) for version in versions]
        return tuple(sorted(rows, key=lambda row: -1 if row.version is None else -row.version))

    async def _listed_versions(self, state: CallState) -> tuple[str, ...]:
        call = self._adapter.metadata_call(self._model)
        try:
            return await self.ask_with_retries(call, self._adapter.read_versions, state)
        except Unavailable as error:
            if not tells_not_ready(error):
                raise
            return ()  # a loading model has no metadata, but reports its readiness

    async def _version_status(self, version: str, state: CallState) -> VersionStatus:
        call, error = self._adapter.ready_call(self._model, version), ""
        try:
            is_ready = await self.ask_with_retries(call, self._adapter.read_ready, state)
        except NotSpoken:
            is_ready = False  # Triton sends just an error status with an empty body
        except _NOT_READY as refusal:
            is_ready, error = False, refusal.message
        return VersionStatus(number_of(version), "AVAILABLE" if is_ready else "UNKNOWN", error)

    async def _infer_enough(
        self, choices: SignatureChoices, request: ImageRequest, state: CallState
    ) -> Answer:
        """Return the answer; ask again if the first has too few of the model's classes."""
        choice = choices.choice_for(request)
        answer = await self.send(choice.request(request), state)
        choices = choices.learnt(choice, answer)
        more = choices.choice_for_more(request, choice, answer)
        if more:
            choice = more
            answer = await self.send(choice.request(request), state)
            choices = choices.learnt(choice, answer)
        self._choices = choices
        return replace(answer, has_all_classes=choices.has_all_classes(choice, answer))

    async def send(
        self, request: InferRequest, state: CallState, *, is_bounded: bool = True
    ) -> Answer:
        """Return the answer; retry once in JSON if the server cannot read binary after all."""
        try:
            return await self._send(request, state, is_bounded=is_bounded)
        except InvalidInput as error:
            if self.endpoint.protocol == "rest" and not self._is_binary and _has_nan(request):
                error.hint = NO_NAN
            raise

    async def _send(self, request: InferRequest, state: CallState, *, is_bounded: bool) -> Answer:
        is_binary = await self._takes_binary(state)
        wants_binary = is_binary and self._declares_binary and not request.is_file
        request = replace(
            request,
            is_binary=is_binary,
            wants_binary=wants_binary,
            reads_base64=self._reads_base64,
        )
        try:
            answer = await super().send(request, state, is_bounded=is_bounded)
        except MlserveError as error:
            is_last = self.endpoint.protocol == "grpc" or not is_binary or self._has_answered
            if is_last or not refuses_binary(error, is_declared=self._declares_binary):
                raise
            request = replace(request, is_binary=False, wants_binary=False)
            try:
                answer = await super().send(request, state, is_bounded=is_bounded)
            except (InvalidInput, InferenceFailed):
                raise error from None  # the encoding was not the cause
            self._is_binary = False
        self._has_answered = True
        return answer

    async def _takes_binary(self, state: CallState) -> bool:
        """Return whether to send tensors in binary; a server that does not say is tried."""
        if self._is_binary is None:
            self._is_binary = await self._learn_binary(state)
        return self._is_binary

    async def _learn_binary(self, state: CallState) -> bool:
        call = self._adapter.about_call()
        if call is None:
            return True
        try:
            about = await self.ask_with_retries(call, self._adapter.read_about, state)
        except (NotSpoken, UsageError, InferenceFailed):
            return True
        self._declares_binary = BINARY in about.extensions
        self._reads_base64 = about.name == _MLSERVER
        return self._declares_binary


def _has_nan(request: InferRequest) -> bool:
    """Return whether an input has a number that JSON does not have: NaN or an infinity."""
    floats = (tensor for tensor in request.inputs.values() if tensor.dtype in FLOATS)
    return not all(isfinite(value) for tensor in floats for value in tensor.elements)
