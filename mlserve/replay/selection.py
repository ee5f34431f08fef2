"""Which requests of a recording are replayed, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from mlserve import errors
from mlserve.bench.connection import kind_of, kind_of_grpc, kind_of_http
from mlserve.bench.tally import ANSWERED, LATE, LEFT, Tally
from mlserve.client.endpoint import ProtocolName
from mlserve.errors import NotFound, UsageError, counted, first_of
from mlserve.recording.reading import Recording, Summary
from mlserve.recording.records import Kind, RecordedRequest
from mlserve.replay.paths import model_asked
from mlserve.wire.status import grpc_status, http_status

MOST_REQUESTS = 500_000
"""Requests that are replayed at once, at most: each takes about half a kilobyte of memory."""
_CANCELLED = "cancelled"
_LEAST_SECONDS = 1e-3
_SILENCE = 60.0
"""Seconds without a request that are worth a word before they are waited through."""
_NAMED = 5
_ERRORS = {
    kind_of(each): each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.MlserveError)
}
"""The errors by the code under which a server records them."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to replay: of one model or one transport, and of a part of the time.

    `begin` and `duration` are seconds; the first counts from the first arrival of the recording.
    """

    model: str | None = None
    protocol: ProtocolName | None = None
    begin: float = 0.0
    duration: float | None = None

    def takes(self, kind: Kind, models: Sequence[str]) -> bool:
        """Return whether requests of that kind are wanted; `models` are those of the recording.

        A request that was refused before its model was known is of the only one that there is.
        """
        if self.protocol is not None and kind.transport != self.protocol:
            return False
        if self.model is None:
            return True
        asked = model_asked(kind) or (models[0] if len(models) == 1 else "")
        return asked == self.model


@dataclass(slots=True)
class Traffic:
    """Recorded requests in the order of their arrival. `left_out` counts others, by reason."""

    requests: list[RecordedRequest]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def models(self) -> list[str]:
        """The models that were asked, as far as they are known."""
        return sorted({name for each in self.requests if (name := model_asked(each.kind))})

    def moments(self, speed: float, longest_gap: float | None) -> list[float]:
        """Return when each request is sent, in seconds from the first.

        Times without a request that are longer than `longest_gap` seconds are cut to it, before
        everything is made `speed` times as fast.
        """
        arrivals = [each.arrived for each in self.requests]
        moments, at = [0.0], 0.0
        for before, after in pairwise(arrivals):
            gap = after - before
            at += gap if longest_gap is None else min(gap, longest_gap)
            moments.append(at / speed)
        return moments

    @property
    def silence(self) -> float:
        """The seconds in all times without a request that are longer than a minute."""
        gaps = (two.arrived - one.arrived for one, two in pairwise(self.requests))
        return sum(gap for gap in gaps if gap > _SILENCE)


def models_of(summary: Summary) -> list[str]:
    """Return the models that a recording's requests asked, as far as they are known."""
    return sorted({name for kind in summary.kinds if (name := model_asked(kind))})


def summary_of(recording: Recording, wanted: Selection | None = None) -> Summary:
    """Return what a recording holds of the requests that are wanted, by default of all.

    Raises NotFound if none is, and as reading it does.
    """
    whole = Summary()
    for request in recording.requests():
        whole.add(request)
    if wanted is None or wanted == Selection():
        return whole
    part = Summary()
    for request in chosen(recording, whole, wanted):
        part.add(request)
    if not part.requests:
        raise _none_left(whole)
    return part


def chosen(
    recording: Recording, summary: Summary, wanted: Selection, *, reads_bytes: bool = False
) -> Iterator[RecordedRequest]:
    """Yield the requests that are wanted, file by file. Raises NotFound for an unknown model."""
    models = _models_with(summary, wanted)
    begin, end = _span(summary, wanted)
    for request in recording.requests(reads_bytes=reads_bytes):
        if begin <= request.arrived <= end and wanted.takes(request.kind, models):
            yield request


def select(recording: Recording, summary: Summary, wanted: Selection) -> Traffic:
    """Return the requests that are wanted, with their bytes.

    Raises NotFound if there are none, and UsageError if there are too many.
    """
    models = _models_with(summary, wanted)
    begin, end = _span(summary, wanted)
    found: list[RecordedRequest] = []
    left_out: Counter[str] = Counter()
    for request in recording.requests(reads_bytes=True):
        if not begin <= request.arrived <= end:
            continue
        if not wanted.takes(request.kind, models):
            left_out[_why_left_out(request.kind, wanted)] += 1
            continue
        if len(found) == MOST_REQUESTS:
            raise UsageError(
                f"more than {MOST_REQUESTS} requests are to be replayed",
                hint="choose a part of the recording with --from and --duration",
            )
        found.append(request)
    if not found:
        raise _none_left(summary)
    found.sort(key=lambda request: request.arrived)
    return Traffic(found, left_out)


def _models_with(summary: Summary, wanted: Selection) -> list[str]:
    """Return the models of the recording. Raises NotFound if it lacks the one that is wanted."""
    models = models_of(summary)
    if wanted.model is not None and wanted.model not in models:
        raise NotFound(
            f"no recorded request is for the model {wanted.model}",
            hint=f"the recording has {first_of(models, _NAMED) or 'no request with a model'}",
        )
    return models


def _span(summary: Summary, wanted: Selection) -> tuple[float, float]:
    """Return the Unix times from and to which requests are wanted."""
    begin = summary.first + wanted.begin
    return begin, summary.last if wanted.duration is None else begin + wanted.duration


def _none_left(summary: Summary) -> NotFound:
    return NotFound(
        f"no recorded request is left, of {counted(summary.requests, 'request')}",
        hint="see what there is with mlserve replay DIR, and choose other ones",
    )


def _why_left_out(kind: Kind, wanted: Selection) -> str:
    if wanted.protocol is not None and kind.transport != wanted.protocol:
        return f"came over {kind.transport}"
    if model := model_asked(kind):
        return f"for the model {model}"
    return "refused before their model was known"


def recorded_tally(requests: Sequence[RecordedRequest], seconds: float) -> Tally:
    """Return what became of the requests when they were recorded, in the terms of a load.

    Latencies are the times in the server.
    """
    tally = Tally(seconds=max(seconds, _LEAST_SECONDS))
    for request in requests:
        tally.latencies[kind_of_outcome(request)].add(request.seconds)
        if request.kind.is_ok:
            stages = {name: getattr(request, name) * 1000 for name in _STAGES}
            tally.add_stages(stages)
    return tally


_STAGES = ("queue", "decode", "run", "encode")


def kind_of_outcome(request: RecordedRequest) -> str:
    """Return the kind by which a load counts how the request ended: by what its caller saw."""
    if request.kind.is_ok:
        return ANSWERED if request.is_in_time else LATE
    if request.kind.code == _CANCELLED:
        return LEFT
    return _as_seen(request.kind.code, request.kind.transport)


@cache
def _as_seen(code: str, transport: str) -> str:
    """Return the kind of error that a caller takes that one for: its status does not say all."""
    error = _ERRORS.get(code)
    if error is None:
        return code
    if transport == "grpc":
        return kind_of_grpc(grpc_status(error("")))
    return kind_of_http(http_status(error("")))
