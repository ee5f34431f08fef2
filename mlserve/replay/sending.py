"""Recorded requests as the load generator sends them: bytes, moments and deadlines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mlserve.bench.arrivals import PlannedArrivals
from mlserve.bench.connection import Request, Take
from mlserve.bench.load import OpenLoop, Window
from mlserve.bench.tally import LEFT
from mlserve.bench.target import Target, written
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.recording.records import RecordedRequest
from mlserve.replay.asking import Asked, with_token
from mlserve.replay.bodies import Bodies, Content, Origin
from mlserve.replay.selection import kind_of_outcome
from mlserve.wire.headers import REQUEST_PRIORITY

LEAD = 0.25
"""Seconds between the first connection and the first request."""
_PATIENCE = 30.0
"""Seconds that a caller without a deadline waits, whose answer was recorded."""
_SHORTEST = 1e-3
_LEFT_EARLY = 0.95
"""The part of its deadline up to which a caller that left has done so by itself."""
_USUAL = "default"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a caller waits, and what it tells: `told` seconds, or None for no deadline.

    `is_told`: it waits for as long as it has told.
    """

    told: float | None
    timeout: float
    is_told: bool

    @classmethod
    def of(cls, request: RecordedRequest, patience: float) -> Waits:
        """Return those of a recorded caller: it leaves when it left then, or at its deadline."""
        told = request.timeout or None
        has_left = kind_of_outcome(request) == LEFT
        if has_left and (told is None or request.seconds < _LEFT_EARLY * told):
            return cls(told, max(_SHORTEST, request.seconds), is_told=False)
        if told is None:
            return cls(None, patience, is_told=False)
        return cls(told, max(_SHORTEST, told), is_told=True)


@dataclass(slots=True)
class Answers:
    """The answers to requests whose answer was recorded, by the number of the request."""

    found: dict[int, tuple[Mapping[str, str], bytes]] = field(default_factory=dict)

    def take(self, index: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep an answer."""
        self.found[index] = headers, body


@dataclass(slots=True)
class Sender:
    """Makes the bytes of requests; those that are the same are made once."""

    asked: Asked
    bodies: Bodies
    answers: Answers
    patience: float = _PATIENCE
    _written: dict[tuple[object, ...], tuple[bytes, bytes]] = field(default_factory=dict)
    _sent: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def request(self, index: int, recorded: RecordedRequest) -> tuple[Connection, Request]:
        """Return the request of that number, and the connection that it goes over."""
        kind, waits = recorded.kind, Waits.of(recorded, self.patience)
        door = self.asked.door_of(kind.transport)
        content = self.bodies.content(index, recorded, door.endpoint.protocol)
        head, body = self._bytes(door, content, waits, recorded)
        take: Take | None = None
        if content.origin is Origin.OWN and recorded.sample and recorded.sample.answer is not None:
            take = partial(self.answers.take, index)
        return door, Request(head, body, waits.timeout, waits.is_told, kind.model, take)

    def _bytes(
        self, door: Connection, content: Content, waits: Waits, recorded: RecordedRequest
    ) -> tuple[bytes, bytes]:
        kind, told = recorded.kind, waits.told
        milliseconds = None if told is None else round(told * 1000)
        protocol = door.endpoint.protocol
        key = (protocol, *content.key, milliseconds, kind.priority, kind.token)
        found = self._written.get(key)
        if found is None:
            call = content.call(math.inf if told is None else told)
            if kind.priority not in ("", _USUAL):
                headers = {**call.headers, REQUEST_PRIORITY: kind.priority}
                call = Call(call.path, call.body, headers)
            connection = with_token(door, self.asked.tokens.get(kind.token))
            head, body = written(connection, call, told)
            if content.recorded is not None:  # the same whatever the caller tells
                body = self._sent.setdefault((protocol, *content.key), body)
            found = self._written[key] = head, body
        return found


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent over one connection: requests at moments, in seconds from the first of all."""

    target: Target
    moments: tuple[float, ...]

    def load(self, seconds: float) -> tuple[Target, OpenLoop, Window]:
        """Return it as an open loop that is measured for so many seconds, once it is connected."""
        planned = tuple(LEAD + moment for moment in self.moments)
        loop = OpenLoop(len(planned) / seconds, PlannedArrivals(planned=planned))
        longest = max(request.timeout for request in self.target.requests)
        return self.target, loop, Window(seconds, LEAD, longest, keeps_ends=True)


def sendings(
    sender: Sender, requests: Sequence[RecordedRequest], moments: Sequence[float]
) -> list[Sending]:
    """Return what is sent over each connection of the server."""
    by_door: dict[str, tuple[Connection, list[Request], list[float]]] = {}
    for index, (recorded, moment) in enumerate(zip(requests, moments, strict=True)):
        door, request = sender.request(index, recorded)
        _, sent, when = by_door.setdefault(str(door.endpoint), (door, [], []))
        sent.append(request)
        when.append(moment)
    return [
        Sending(Target.of_requests(name, door, sent), tuple(when))
        for name, (door, sent, when) in by_door.items()
    ]
