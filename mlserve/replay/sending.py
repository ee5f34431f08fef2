"""Recorded requests as the load generator sends them: bytes, moments and deadlines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, get_args

from mlserve.bench.arrivals import PlannedArrivals
from mlserve.bench.connection import Fail, Request, Take
from mlserve.bench.load import OpenLoop, Window
from mlserve.bench.tally import LEFT
from mlserve.bench.target import Target, written
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection, PriorityName
from mlserve.errors import counted, shortened
from mlserve.recording.records import CONTENT_HEADERS, RecordedRequest
from mlserve.replay.asking import Asked, with_token
from mlserve.replay.bodies import Bodies, Content, Origin, RecordedCall
from mlserve.replay.selection import kind_of_outcome
from mlserve.wire.headers import REQUEST_PRIORITY

LEAD = 0.25
"""Seconds between the first connection and the first request."""
_AHEAD = 32
"""How many requests ahead the system is told which body will be read."""
_PATIENCE = 30.0
"""Seconds that a caller without a deadline waits, whose answer was recorded."""
_SHORTEST = 1e-3
_LEFT_EARLY = 0.95
"""The part of its deadline up to which a caller that left has done so by itself."""
_PRIORITIES = frozenset(get_args(PriorityName)) - {"default"}
"""The priorities that are told."""
_DENIED = "access_denied"
"""The code of requests whose caller had no token that holds."""
_ROUNDED = 1e-3
"""Milliseconds that are added to a whole number of them, so that no fraction less is cut to it."""
_MOST_ERRORS = 10
"""Different errors whose words are kept."""
_LONGEST_ERROR = 300
_IN_MEMORY = 64 * 2**20
"""Bytes of answers that are kept in memory; more than that go to a file."""


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


class Answers(Mapping[int, tuple[Mapping[str, str], bytes]]):
    """The answers to requests whose answer was recorded, by the number of the request.

    Many of them are in a temporary file, which is gone with the process. Reading one raises
    OSError.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[Mapping[str, str], int, int]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0
        self._lost = 0
        self._problem = ""
        self.errors: Counter[str] = Counter()
        """What errors said in place of an answer that was recorded, and how often."""

    def take(self, index: int, headers: Mapping[str, str], body: bytes) -> None:
        """Keep an answer; called by the load generator, so it does not raise."""
        about = {name: headers[name] for name in CONTENT_HEADERS if name in headers}
        try:
            file = self._opened()
            file.seek(self._end)
            file.write(body)
        except OSError as error:
            self._lost += 1
            self._problem = error.strerror or str(error)
            return
        self._places[index] = about, self._end, len(body)
        self._end += len(body)

    def close(self) -> None:
        """Let the answers go."""
        if self._file is not None:
            self._file.close()

    def fail(self, text: str) -> None:
        """Note what an error says."""
        said = _said(text)
        if said in self.errors or len(self.errors) < _MOST_ERRORS:
            self.errors[said] += 1

    def __getitem__(self, index: int) -> tuple[Mapping[str, str], bytes]:
        headers, at, size = self._places[index]
        file = self._opened()
        file.seek(at)
        return headers, file.read(size)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - `close` ends it
        return self._file

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def problems(self) -> list[str]:
        """What was not kept, in words."""
        if not self._lost:
            return []
        return [f"{counted(self._lost, 'answer')} could not be kept to compare: {self._problem}"]


@dataclass(slots=True)
class Sender:
    """Makes requests; the bytes of heads that are the same are made once.

    Recorded bodies are read when they are sent, by the thread that sends. The system is told of
    each some requests ahead, so that this thread does not wait for a disk: from a cold one, a body
    of 200 kB took up to 1.8 ms, and takes 0.2 ms so (99 % of them).
    """

    asked: Asked
    bodies: Bodies
    answers: Answers
    patience: float = _PATIENCE
    unread: int = 0
    """How many recorded bodies could not be read any more, and were sent as zeros."""
    _written: dict[tuple[object, ...], tuple[bytes, bytes]] = field(default_factory=dict)
    _recorded: list[RecordedCall] = field(default_factory=list)
    """The calls whose bodies are recorded, in the order in which they are sent."""

    def request(self, index: int, recorded: RecordedRequest) -> tuple[Connection, Request]:
        """Return the request of that number, and the connection that it goes over."""
        kind, waits = recorded.kind, Waits.of(recorded, self.patience)
        door = self.asked.door_of(kind.transport)
        protocol = door.endpoint.protocol
        content = self.bodies.content(index, recorded, protocol)
        head, body = self._bytes(door, content, waits, recorded)
        read: Callable[[], bytes] | None = None
        if content.recorded is not None:
            place = len(self._recorded)
            self._recorded.append(content.recorded)
            read = partial(self._read, place, is_grpc=protocol == "grpc")
        take: Take | None = None
        fail: Fail | None = None
        if content.origin is Origin.OWN and recorded.sample and recorded.sample.has_answer:
            take, fail = partial(self.answers.take, index), self.answers.fail
        request = Request(head, body, waits.timeout, waits.is_told, kind.model, take, fail, read)
        return door, request

    @property
    def problems(self) -> list[str]:
        """What could not be sent as it was recorded, in words."""
        if not self.unread:
            return []
        count = counted(self.unread, "request")
        return [f"the recorded bodies of {count} could not be read any more: zeros were sent"]

    def _bytes(
        self, door: Connection, content: Content, waits: Waits, recorded: RecordedRequest
    ) -> tuple[bytes, bytes]:
        """Return the head of a request, and its body unless that is recorded."""
        kind, told = recorded.kind, waits.told
        milliseconds = None if told is None else max(1, round(told * 1000))
        is_denied = kind.code == _DENIED
        key = (
            *(door.endpoint.protocol, *content.key, milliseconds),
            *(kind.priority, kind.token, is_denied),
        )
        found = self._written.get(key)
        if found is None:
            call, size = _call(content, math.inf if told is None else told)
            if kind.priority in _PRIORITIES:
                headers = {**call.headers, REQUEST_PRIORITY: kind.priority}
                call = Call(call.path, call.body, headers)
            connection = with_token(door, self.asked.tokens.get(kind.token))
            if is_denied:
                connection = replace(door, token=None)
            seconds = None if milliseconds is None else (milliseconds + _ROUNDED) / 1000
            found = self._written[key] = written(connection, call, seconds, size)
        return found if content.recorded is None else (found[0], b"")

    def _read(self, place: int, *, is_grpc: bool) -> bytes:
        """Return a recorded body as it is sent; called by the load generator: it does not raise."""
        recorded = self._recorded[place]
        soon = self._recorded[place + _AHEAD : place + _AHEAD + 1]
        try:
            for each in soon if place else self._recorded[1 : _AHEAD + 1]:
                each.sample.fetch_body()
            body = recorded.body()
        except OSError:
            self.unread += 1
            body = bytes(recorded.sample.size)
        if not is_grpc:
            return body
        from mlserve.bench.http2 import message  # REST needs no HPACK

        return message(body)


def _said(text: str) -> str:
    """Return what an error says: over REST, what its JSON holds under `error`."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):  # of others, or over gRPC
        text = str(json.loads(text)["error"])
    return shortened(text, _LONGEST_ERROR)


def _call(content: Content, seconds: float) -> tuple[Call, int | None]:
    """Return the call with that time limit, and the size of its body if that is read later."""
    if content.recorded is not None:
        return content.recorded.head, content.recorded.sample.size
    assert content.input is not None
    return content.input.call(seconds), None


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
