"""Calls to the engine from the handlers of the same process, without HTTP.

They pass the same admission and the same queue as requests do, count in the same metrics and drain,
and end with the errors that `AsyncClient` raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mlserve.asgi.inputs import read_inputs, rows_of
from mlserve.client.adapter import ImageRequest, SignatureChoice
from mlserve.client.answers import (
    Answer,
    Column,
    ModelMetadata,
    Prediction,
    Score,
    Timings,
    choose_label,
    shortfall,
)
from mlserve.client.signature_choice import SignatureChoices, choose
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput
from mlserve.server.codec.images import check_images
from mlserve.server.engine.job import InferenceCall
from mlserve.server.errors import as_known_error
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.oip.request import default_signature
from mlserve.server.parts import ServerParts
from mlserve.server.request import Purpose, RequestRecord, Route
from mlserve.server.tensors import Array, find_signature
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

Arrays = dict[str, Array]
Result = TypeVar("Result")
HERE = "in process"
"""The endpoint and the protocol of an answer that no connection has brought."""
_TRANSPORT = "direct"
"""The transport of these calls in metrics and in the log."""
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """The model to ask; `version` None is the latest."""

    model: str
    version: int | None


async def infer(
    parts: ServerParts,
    target: Target,
    inputs: Mapping[str, Any],
    signature: str | None,
    outputs: Sequence[str] | None,
    deadline: Deadline,
) -> Arrays:
    """Run a signature, and return the outputs that were asked for; all of them for None."""

    def chosen(signatures: Mapping[str, Signature]) -> Signature:
        if signature is None:
            found = default_signature(signatures)
        else:
            found = find_signature(signatures, signature)
        _require_outputs(found, outputs or ())
        return found

    def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        found = chosen(signatures)
        return found, read_inputs(found, inputs, parts.settings)

    def encode(_: LoadedVersion, ran: Signature, given: Tensors) -> Arrays:
        return {name: given[name] for name in outputs or [spec.name for spec in ran.outputs]}

    def call() -> InferenceCall[Arrays]:
        name, rows = _signatures_seen(parts, target, chosen).name, rows_of(inputs)
        asked = target.model, target.version, deadline
        return InferenceCall(*asked, decode, encode, signature=name, rows=rows)

    answer, _ = await _recorded(parts, "infer", deadline, call)
    return answer


async def predict(
    parts: ServerParts, target: Target, request: ImageRequest, deadline: Deadline, began: float
) -> Prediction:
    """Return the label of an image, read since `began` on the monotonic clock."""
    read = time.monotonic() - began

    def chosen(signatures: Mapping[str, Signature]) -> tuple[SignatureChoices, SignatureChoice]:
        known = ModelMetadata(target.model, target.version, tuple(signatures.values()))
        choices = choose(known)
        return choices, choices.choice_for(request)

    def decode(signatures: Mapping[str, Signature]) -> tuple[Signature, Tensors]:
        _, choice = chosen(signatures)
        found = signatures[choice.signature]
        inputs = {choice.input: _one_string(request.image, choice.shape)}
        check_images(found, inputs, parts.settings)
        return found, inputs

    def encode(loaded: LoadedVersion, _: Signature, given: Tensors) -> _Labelled:
        choices, choice = chosen(loaded.runner.signatures)
        answer = Answer({name: _column(array) for name, array in given.items()}, loaded.version)
        has_all = choices.has_all_classes(choice, answer)
        label, scores = choose_label(answer.outputs, request.count)
        missing = shortfall(replace(answer, has_all_classes=has_all), request.top_k)
        return _Labelled(loaded.version, loaded.has_random_weights, label, scores, missing)

    def call() -> InferenceCall[_Labelled]:
        _, choice = _signatures_seen(parts, target, chosen)
        asked = target.model, target.version, deadline
        return InferenceCall(*asked, decode, encode, signature=choice.signature, rows=1)

    found, record = await _recorded(parts, "predict", deadline, call)
    return Prediction(
        label=found.label,
        scores=found.scores,
        model=target.model,
        version=found.version,
        endpoint=HERE,
        protocol=HERE,
        api="",
        timings=_timings(record, read, time.monotonic() - began),
        has_random_weights=found.has_random_weights,
        request_id=record.request_id,
        trace_id=record.span.trace_id,
        shortfall=found.shortfall,
    )


@dataclass(frozen=True, slots=True)
class _Labelled:
    """What an answer about an image says, and which version gave it."""

    version: int
    has_random_weights: bool
    label: str
    scores: tuple[Score, ...]
    shortfall: str | None


async def _recorded(
    parts: ServerParts, what: str, deadline: Deadline, call: Callable[[], InferenceCall[Result]]
) -> tuple[Result, RequestRecord]:
    """Return the call's result and its record, which is counted and logged like a request's.

    Raises nothing but MlserveError.
    """
    route = Route(_TRANSPORT, "", Purpose.PREDICT, what)
    record = parts.telemetry.begin(route, lambda _: None)
    parts.in_flight.take(record)
    try:
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


def _require_outputs(signature: Signature, wanted: Sequence[str]) -> None:
    names = {spec.name for spec in signature.outputs}
    for name in wanted:
        if name not in names:
            raise InvalidInput(
                f"signature '{signature.name}' has no output '{name}'; there are: "
                f"{', '.join(sorted(names))}"
            )


def _one_string(data: bytes, shape: tuple[int, ...]) -> Array:
    array = np.empty(shape, dtype=object)
    array[(0,) * len(shape)] = data
    return array


def _column(array: Array) -> Column:
    """Return an output in the client's words: strings as text."""
    values = tuple(
        item.decode(errors="surrogateescape") if isinstance(item, bytes) else item
        for item in array.ravel().tolist()
    )
    return Column(array.shape, values)


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
