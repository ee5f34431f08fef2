"""Calls to the engine from the handlers of the same process, without HTTP.

They pass the same admission and the same queue as requests do, count in the same metrics and drain,
and end with the errors that `AsyncClient` raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mlserve.client.adapter import ImageRequest, InferRequest
from mlserve.client.answers import (
    Answer,
    ModelMetadata,
    Prediction,
    Score,
    Timings,
    choose_label,
    shortfall,
)
from mlserve.client.arrays import to_array
from mlserve.client.outputs import Outputs
from mlserve.client.question import AskedSignature, Question, checked_request, signature_named
from mlserve.client.signature_choice import SignatureChoices, choose
from mlserve.client.tensor import Tensor
from mlserve.deadline import Deadline
from mlserve.ladder.climb import in_header
from mlserve.server.codec.images import check_images
from mlserve.server.engine.job import InferenceCall
from mlserve.server.engine.work import Codec
from mlserve.server.errors import as_known_error
from mlserve.server.models.loading import Served
from mlserve.server.parts import ServerParts
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.tensors import Array, check_batch_length
from mlserve.settings import ServerSettings
from mlserve.tensors import Signature
from mlserve.wire.headers import REQUEST_PRIORITY

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Result = TypeVar("Result")
HERE = "in process"
"""The endpoint and the protocol of an answer that no connection has brought."""
_TRANSPORT = "direct"
"""The transport of these calls in metrics and in the log."""
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """The model to ask; `version` None is the latest. `priority` is the name of one, if given."""

    model: str
    version: int | None
    priority: str | None = None


async def infer(
    parts: ServerParts, target: Target, question: Question, deadline: Deadline, began: float
) -> Outputs:
    """Run the signature that the question is about, asked since `began` on the monotonic clock."""

    def chosen(signatures: Mapping[str, Signature]) -> AskedSignature:
        return _asked(target.model, question, signatures)

    def call() -> InferenceCall[_Given]:
        name, rows = _signatures_seen(parts, target, chosen).sent_as, _rows(question.inputs)
        codec = _InferCodec(target.model, question)
        return InferenceCall(
            target.model, target.version, deadline, codec, signature=name, rows=rows
        )

    found, record = await _recorded(parts, "infer", target, deadline, call)
    return Outputs(
        found.values,
        signature=found.signature,
        model=target.model,
        version=found.served.version,
        endpoint=HERE,
        protocol=HERE,
        api="",
        timings=_timings(record, 0.0, time.monotonic() - began),
        has_random_weights=found.served.has_random_weights,
        request_id=record.request_id,
        trace_id=record.span.trace_id,
        served_by=record.served_by or None,
        rungs=in_header(record.rungs) or None,
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """The outputs that were asked for, the signature that ran, and which version gave them."""

    served: Served
    signature: str
    values: Tensors


@dataclass(frozen=True, slots=True)
class _InferCodec(Codec[_Given]):
    """A question about tensors; it stays in this process."""

    model: str
    question: Question
    gives_arrays = True

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        asked = _asked(self.model, self.question, signatures)
        request = checked_request(asked, self.question)
        return asked.signature, _limited(asked.signature, request, settings)

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> _Given:
        every = (spec.name for spec in signature.outputs)
        wanted = dict.fromkeys(self.question.outputs or every)
        return _Given(served, signature.name, {name: outputs[name] for name in wanted})


def _asked(model: str, question: Question, signatures: Mapping[str, Signature]) -> AskedSignature:
    """Return the signature that the question is about."""
    name = signature_named(model, sorted(signatures), question.signature)
    return AskedSignature(model, signatures[name], name)


async def predict(
    parts: ServerParts, target: Target, request: ImageRequest, deadline: Deadline, began: float
) -> Prediction:
    """Return the label of an image, read since `began` on the monotonic clock."""
    read = time.monotonic() - began

    def choices(signatures: Mapping[str, Signature]) -> SignatureChoices:
        return _choices(target, signatures)

    def call() -> InferenceCall[_Labelled]:
        choice = _signatures_seen(parts, target, choices).choice_for(request)
        codec = _PredictCodec(target, request)
        return InferenceCall(
            target.model, target.version, deadline, codec, signature=choice.signature, rows=1
        )

    found, record = await _recorded(parts, "predict", target, deadline, call)
    return Prediction(
        label=found.label,
        scores=found.scores,
        model=target.model,
        version=found.served.version,
        endpoint=HERE,
        protocol=HERE,
        api="",
        timings=_timings(record, read, time.monotonic() - began),
        has_random_weights=found.served.has_random_weights,
        request_id=record.request_id,
        trace_id=record.span.trace_id,
        served_by=record.served_by or None,
        rungs=in_header(record.rungs) or None,
        shortfall=found.shortfall,
    )


@dataclass(frozen=True, slots=True)
class _Labelled:
    """What an answer about an image says, and which version gave it."""

    served: Served
    label: str
    scores: tuple[Score, ...]
    shortfall: str | None


class _PredictCodec(Codec[_Labelled]):
    """A question about an image; it stays in this process."""

    def __init__(self, target: Target, request: ImageRequest) -> None:
        self._target = target
        self._request = request
        self._signatures: Mapping[str, Signature] = {}

    def decode(
        self, signatures: Mapping[str, Signature], settings: ServerSettings
    ) -> tuple[Signature, Tensors]:
        self._signatures = signatures
        choice = _choices(self._target, signatures).choice_for(self._request)
        found = signatures[choice.signature]
        inputs = {choice.input: _one_string(self._request.image, choice.shape)}
        check_images(found, inputs, settings)
        return found, inputs

    def encode(self, served: Served, signature: Signature, outputs: Tensors) -> _Labelled:
        request, choices = self._request, _choices(self._target, self._signatures)
        answer = Answer({name: _tensor(array) for name, array in outputs.items()}, served.version)
        has_all = choices.has_all_classes(choices.choice_for(request), answer)
        label, scores = choose_label(answer.outputs, request.count)
        missing = shortfall(replace(answer, has_all_classes=has_all), request.top_k)
        return _Labelled(served, label, scores, missing)


def _choices(target: Target, signatures: Mapping[str, Signature]) -> SignatureChoices:
    """Return what the model's signatures can answer about an image."""
    return choose(ModelMetadata(target.model, target.version, tuple(signatures.values())))


async def _recorded(
    parts: ServerParts,
    what: str,
    target: Target,
    deadline: Deadline,
    call: Callable[[], InferenceCall[Result]],
) -> tuple[Result, RequestRecord]:
    """Return the call's result and its record, which is counted and logged like a request's.

    Raises nothing but MlserveError.
    """
    route = Route(_TRANSPORT, "", Purpose.PREDICT, what)
    record = parts.telemetry.begin(route, lambda _: None)
    parts.in_flight.take(record)
    try:
        record.take_deadline(deadline)
        record.take_priority({REQUEST_PRIORITY: target.priority}.get)
        parts.engine.admit(deadline)
        result = await parts.engine.serve(call())
    except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
        failure = as_known_error(error)
        record.failed(failure)
        raise failure from None
    else:
        record.answered()
        return result, record
    finally:
        parts.telemetry.end(record)
        parts.in_flight.answered(record)


def _signatures_seen(
    parts: ServerParts, target: Target, look: Callable[[Mapping[str, Signature]], Result]
) -> Result:
    """Return what `look` finds in the signatures of the version that would answer now."""
    with parts.models.lease(target.model, target.version) as loaded:
        return look(loaded.runner.signatures)


def _limited(signature: Signature, request: InferRequest, settings: ServerSettings) -> Tensors:
    """Return the inputs as arrays, within the server's limits. Raises InputTooLarge."""
    inputs = {name: to_array(tensor) for name, tensor in request.inputs.items()}
    for spec in signature.inputs_in(inputs):
        check_batch_length(spec, inputs[spec.name].shape, settings.max_batch_length)
    check_images(signature, inputs, settings)
    return inputs


def _rows(inputs: Any) -> int:
    """Return the first size of the inputs, as far as it shows before they are read; else 1."""
    given = inputs.values() if isinstance(inputs, Mapping) else ()
    return max(map(_length, given), default=1)


def _length(value: Any) -> int:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if shape else 1
    return len(value) if isinstance(value, list | tuple) else 1


def _one_string(data: bytes, shape: tuple[int, ...]) -> Array:
    array = np.empty(shape, dtype=object)
    array[(0,) * len(shape)] = data
    return array


def _tensor(array: Array) -> Tensor:
    """Return an output in the client's words."""
    return Tensor(array.shape, array.ravel().tolist())


def _timings(record: RequestRecord, read: float, total: float) -> Timings:
    times = record.times
    stages = (times.queue, times.decode, times.run, times.encode)
    return Timings(
        start=0.0,
        read=read * _MILLISECONDS,
        connect=0.0,
        queue=times.queue * _MILLISECONDS,
        decode=times.decode * _MILLISECONDS,
        run=times.run * _MILLISECONDS,
        encode=times.encode * _MILLISECONDS,
        receive=max(0.0, total - read - sum(stages)) * _MILLISECONDS,
        wait=0.0,
        total=total * _MILLISECONDS,
    )
