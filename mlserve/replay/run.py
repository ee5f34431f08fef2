"""Replay recorded requests to a server: send them, and say what came of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from mlserve.bench.arrivals import PlannedArrivals
from mlserve.bench.load import OpenLoop, Window, run_loads
from mlserve.bench.measurement import Measurement
from mlserve.bench.questions import InputsQuestion, LoadQuestion, RowsQuestion, encoded_for
from mlserve.bench.server_process import listeners
from mlserve.bench.tally import Tally
from mlserve.bench.target import Target
from mlserve.client.adapter import SentRequest
from mlserve.client.endpoint import Connection
from mlserve.deadline import Deadline
from mlserve.errors import NotFound, UsageError, counted
from mlserve.recording.records import RecordedRequest
from mlserve.replay.agreement import agreement
from mlserve.replay.asking import Asked
from mlserve.replay.bodies import Bodies, InputOf, input_of, require_bodies
from mlserve.replay.expectations import Expectations
from mlserve.replay.result import ReplayResult
from mlserve.replay.selection import Traffic, recorded_tally
from mlserve.replay.sending import LEAD, Answers, Sender, Sending, sendings

_ENCODING = 30.0
"""Seconds that the first answers to the user's input may take."""
_AS_RECORDED = (
    "requests ask for the models and versions that they were recorded with: name the endpoints of "
    "a server that has them; --version N asks for that version, --against MODEL@N for a model"
)
_LAST = 1e-3
"""Seconds after the last moment at which the measured time ends."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How recorded traffic is sent again. `patience` is that of callers without a deadline.

    `speed` and `longest_gap` are those of `Traffic.moments`; `question` is what is asked in place
    of bodies that were not recorded.
    """

    speed: float = 1.0
    longest_gap: float | None = None
    patience: float = 30.0
    question: LoadQuestion | None = None
    expected: Expectations = field(default_factory=Expectations)
    tell: Callable[[str], None] = lambda _text: None

    def run(self, traffic: Traffic, asked: Asked) -> ReplayResult:
        """Send the traffic, and return what came of it; after Ctrl-C it is not whole.

        Raises the errors of `mlserve predict` if the user's input is not answered, and UsageError
        or NotFound for what cannot be replayed, before anything of the traffic is sent.
        """
        requests = traffic.requests
        self._require_answers(requests)
        asked.require(traffic)
        inputs = {} if self.question is None else _inputs(self.question, requests, asked)
        bodies = Bodies(asked.renaming, inputs)
        bodies.learn(requests)
        require_bodies(bodies, requests)
        moments = traffic.moments(self.speed, self.longest_gap)
        with closing(Answers()) as answers:
            sender = Sender(asked, bodies, answers, self.patience)
            sent = sendings(sender, requests, moments)
            seconds = moments[-1] + _LAST
            self.tell(f"replaying {len(requests)} requests to {asked.endpoints}: {seconds:.0f} s")
            tallies = run_loads([each.load(seconds) for each in _watched(sent)])
            self.tell(f"comparing {counted(len(answers), 'answer')}")
            found = agreement(requests, answers)
        whole = _merged(tallies, seconds)
        result = ReplayResult(
            asked=asked.name,
            endpoints=tuple(str(door.endpoint) for door in asked.doors.values()),
            speed=self.speed,
            recorded=recorded_tally(requests, self.speed * seconds),
            replayed=_measurement(sent, whole, seconds),
            agreement=found,
            origins=bodies.counts,
            left_out=traffic.left_out,
            by_model=_by_model(requests, whole, self.speed * seconds, seconds),
            errors=answers.errors,
            problems=[*sender.problems, *answers.problems],
        )
        result.held = self.expected.judge(whole, result.agreement)
        return result

    def _require_answers(self, requests: Sequence[RecordedRequest]) -> None:
        has_any = any(each.sample is not None and each.sample.has_answer for each in requests)
        if self.expected.needs_answers and not has_any:
            raise UsageError(
                "--expect labels or outputs needs recorded answers, and this recording has none",
                hint="record them with --record-bodies SHARE, or expect in-time or p99 alone",
            )


def _inputs(
    question: LoadQuestion, requests: Sequence[RecordedRequest], asked: Asked
) -> Mapping[InputOf, Sequence[SentRequest]]:
    """Return the user's input, encoded for each kind of request that has no body of its own."""
    found: dict[InputOf, Sequence[SentRequest]] = {}
    deadline = Deadline.after(_ENCODING)
    for request in requests:
        if request.sample is not None:
            continue
        door = asked.door_of(request.kind.transport)
        key = input_of(request.kind, door.endpoint.protocol)
        if key not in found:
            wanted = _connection(door, key, asked)
            own = _of_signature(question, key[-1])
            try:
                found[key] = asyncio.run(encoded_for(wanted, own, deadline))
            except NotFound as error:  # no --model would help: it chooses among the requests
                raise NotFound(error.message, hint=_AS_RECORDED) from error
    return found


def _connection(door: Connection, key: InputOf, asked: Asked) -> Connection:
    _, api, model, _ = key
    return replace(
        door,
        api="oip" if api == "oip" else ("tfs" if api == "tfs" else None),
        model=asked.renaming.model or model or None,
        version=asked.renaming.version,
    )


def _of_signature(question: LoadQuestion, signature: str) -> LoadQuestion:
    """Return the question about a signature that was recorded; an image finds its own."""
    if isinstance(question, InputsQuestion | RowsQuestion) and question.signature is None:
        return replace(question, signature=signature or None)
    return question


def _watched(sent: Sequence[Sending]) -> list[Sending]:
    """Return the same, with the processes of the server at the first: they count once."""
    first, *others = sent
    pids = listeners(first.target.endpoint)
    return [replace(first, target=replace(first.target, pids=pids)), *others]


def _merged(tallies: Sequence[Tally], seconds: float) -> Tally:
    """Return what the connections saw together, in one process."""
    whole = Tally.of_processes(tallies)
    whole.seconds = seconds if whole.is_whole else max(each.seconds for each in tallies)
    whole.generator_cpu = max(each.generator_cpu for each in tallies)
    whole.busiest_generator = max(each.busiest_generator for each in tallies)
    return whole


def _measurement(sent: Sequence[Sending], whole: Tally, seconds: float) -> Measurement:
    target: Target = sent[0].target
    count = sum(len(each.moments) for each in sent)
    loop = OpenLoop(count / seconds, PlannedArrivals())
    return Measurement(target, loop, Window(seconds, LEAD, 0.0), [whole])


def _by_model(
    requests: Sequence[RecordedRequest], whole: Tally, before: float, now: float
) -> dict[str, tuple[Tally, Tally]]:
    """Return the figures of each model that was asked, if there are several."""
    recorded: defaultdict[str, list[RecordedRequest]] = defaultdict(list)
    for request in requests:
        recorded[request.kind.model].append(request)
    if len(recorded) < 2:  # noqa: PLR2004  one says no more than the whole
        return {}
    replayed = {model: Tally(seconds=now) for model in recorded}
    for end in whole.ends:
        replayed[end.label].latencies[end.kind].add(end.ended - end.planned)
    return {
        model: (recorded_tally(own, before), replayed[model])
        for model, own in sorted(recorded.items())
    }
