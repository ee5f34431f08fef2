"""One call from start to end: its deadline, ids, retries and image.

`Retries` says how often and how long to wait; the loop is `session.Session.ask_with_retries`.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mlserve.client.answers import Retry, Timings
from mlserve.deadline import Deadline, is_number
from mlserve.errors import Transient, UsageError
from mlserve.threads import on_daemon_thread
from mlserve.wire.headers import REQUEST_ID, TRACEPARENT, read_traceparent, write_traceparent

if TYPE_CHECKING:
    from random import Random

_VARIABLE = TRACEPARENT.upper()
_SAMPLED = "01"
_MOST_DOUBLINGS = 64
"""More would overflow: 2.0**1024 is not a float."""
_ENCODE = (
    "encode pixels as a file first: buffer = io.BytesIO(); "
    'PIL.Image.fromarray(pixels).save(buffer, "PNG"); then give buffer.getvalue()'
)
Image = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""An image file: its path, its bytes, or an open binary file that is read to its end."""


@dataclass(slots=True)
class CallState:
    """One call to a server: its deadline, its current activity, and the time it took.

    `deadline` is that of the whole call; `ids` are sent with every request; `allowed` limits the
    attempts, and `retries` are those that failed. `spent` is in milliseconds by part: start (before
    the call began), read, connect, request (an exchange with the server), and wait (failed attempts
    and the pauses after them). From the start of the deadline on, exactly one part runs at any
    moment, so that they add up.
    """

    deadline: Deadline
    ids: CallIds
    allowed: Retries
    doing: str = "starting"
    spent: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("start", "read", "connect", "request", "wait"), 0.0)
    )
    retries: list[Retry] = field(default_factory=list)
    has_asked: bool = False
    _part: str = "start"
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.deadline.began_at

    @property
    def attempts(self) -> int:
        """How often this request was sent: one more than the failed attempts."""
        return len(self.retries) + 1

    def require(self) -> float:
        """Return the seconds left; raise DeadlineExceeded, naming the activity, if none are."""
        return self.deadline.require(self.doing)

    def enter(self, part: str, doing: str) -> None:
        """End the running part and begin another."""
        self._count()
        self._part, self.doing = part, doing
        self.has_asked = self.has_asked or part == "connect"

    def _count(self) -> None:
        now = time.monotonic()
        self.spent[self._part] += (now - self._since) * 1000
        self._since = now

    def spent_so_far(self) -> dict[str, float]:
        """Return a copy of `spent` that includes the running part until now."""
        self._count()
        return dict(self.spent)

    def pause(self, error: Transient) -> float:
        """Return the seconds to wait before the next attempt; infinity: do not retry."""
        return self.allowed.pause(self.attempts, error)

    def begin_again(self, error: Transient, pause: float, before: Mapping[str, float]) -> None:
        """Record a failed attempt. `before` is `spent` at its start."""
        self.enter("wait", f"waiting to ask again after: {error.message}")
        for part in ("connect", "request"):
            self.spent["wait"] += self.spent[part] - before[part]
            self.spent[part] = before[part]
        self.retries.append(Retry(error.kind, error.message, pause * 1000))

    def timings(self, server_ms: Mapping[str, float]) -> Timings:
        """Return where the time went until now.

        `server_ms` is ignored if it exceeds the measured exchange.
        """
        self._count()
        exchange = self.spent["request"]
        in_server = sum(server_ms.values())
        if in_server > exchange:
            server_ms, in_server = {}, 0.0
        return Timings(
            start=self.spent["start"],
            read=self.spent["read"],
            connect=self.spent["connect"],
            queue=server_ms.get("queue"),
            decode=server_ms.get("decode"),
            run=server_ms.get("run"),
            encode=server_ms.get("encode"),
            receive=exchange - in_server,
            wait=self.spent["wait"],
            total=sum(self.spent.values()),
        )

    def with_attempts(self, message: str) -> str:
        """Return the last error's message, with what came before it."""
        if not self.retries:
            return message
        first = self.retries[0].message
        before = "" if first == message else f"; at first: {first}"
        return f"{message} (after {self.attempts} attempts{before})"

    def details(self) -> dict[str, Any]:
        """Return data about the call for its final error; empty if the server was never asked."""
        if not self.has_asked:
            return {}
        return {
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "request_id": self.ids.request_id,
            "trace_id": self.ids.trace.id,
        }


@dataclass(frozen=True, slots=True)
class CallIds:
    """The ids of a call: its trace, and a request id that is kept across retries."""

    trace: Trace
    request_id: str = field(default_factory=lambda: _hexadecimal(16))

    def headers(self) -> dict[str, str]:
        """Return the headers, or gRPC metadata, of one attempt; each attempt has its own span."""
        span = write_traceparent(self.trace.id, _hexadecimal(8), self.trace.flags)
        return {REQUEST_ID: self.request_id, TRACEPARENT: span}


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace of calls. `id` is 32 hexadecimal digits; `flags` are W3C's two digits."""

    id: str
    flags: str = _SAMPLED

    @classmethod
    def following(cls, parent: str | None) -> Trace:
        """Return the trace of that traceparent; None takes the environment's, or begins a new one.

        A malformed one in the environment is ignored, as W3C says. Raises UsageError for a
        malformed `parent`.
        """
        text = os.environ.get(_VARIABLE, "") if parent is None else parent
        if text and (found := read_traceparent(text.strip())):
            trace_id, _, flags = found
            return cls(trace_id, flags)
        if parent is not None:
            raise UsageError(
                f"{parent!r} is not a traceparent",
                hint="W3C's form is 00-<32 hex digits>-<16 hex digits>-01",
            )
        return cls(_hexadecimal(16))


def _hexadecimal(size: int) -> str:
    """Return random hexadecimal digits; all zeros, which W3C forbids, is too unlikely to check."""
    return os.urandom(size).hex()


@dataclass(frozen=True, slots=True)
class Retries:
    """How a call that met a `Transient` error is retried, always within its one deadline.

    The n-th wait is a random part of `min(cap, base * 2**n)` seconds, added to the wait that the
    server asked for, if it did. `max_attempts` 1 never retries. `random` is the source of
    randomness, for tests that need the same waits each time. Raises UsageError if no attempt is
    allowed, or if `base` or `cap` is not a valid number of seconds.
    """

    max_attempts: int = 5
    base: float = 0.05
    cap: float = 1.0
    random: Random | None = None

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"{name} must be a number of seconds, at least 0, not {value!r}",
                    hint=f"the default is {self.__dataclass_fields__[name].default}",
                )
        if not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise UsageError(
                f"max_attempts must be at least 1, not {self.max_attempts!r}",
                hint="1 asks once and never again",
            )

    def pause(self, failed: int, error: Transient) -> float:
        """Return the seconds to wait after the `failed`-th failure; infinity: do not retry."""
        if failed >= self.max_attempts:
            return float("inf")
        longest = min(self.cap, self.base * 2.0 ** min(failed - 1, _MOST_DOUBLINGS))
        return (error.retry_after or 0.0) + self._chance().uniform(0, longest)

    def _chance(self) -> Random:
        if self.random is not None:
            return self.random
        from random import SystemRandom  # most calls need no randomness

        return SystemRandom()


DEFAULT_RETRIES = Retries()
ONCE = Retries(max_attempts=1)
"""For callers that measure, or that retry on their own."""


async def read_image(image: Image) -> bytes:
    """Return the bytes of the file. Raises UsageError, naming it, if it cannot be read.

    If the caller is cancelled, the read continues in the background and its result is dropped.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | PathLike) and not hasattr(image, "read"):
        raise UsageError(
            f"{type(image).__name__} is not an image file: predict takes a path, the bytes of a "
            "JPEG or PNG file, or an open binary file",
            hint=_ENCODE,
        )
    return await asyncio.wrap_future(on_daemon_thread(_read, image))


def name_of(image: Image) -> str:
    """Return a name for the image in messages."""
    if isinstance(image, bytes | bytearray | memoryview):
        return "the image"
    if isinstance(image, str | PathLike):
        return str(image)
    return "standard input" if getattr(image, "name", None) == 0 else "the open file"


def _read(image: str | PathLike[str] | BinaryIO) -> bytes:
    try:
        data = Path(image).read_bytes() if isinstance(image, str | PathLike) else image.read()
    except (OSError, ValueError) as error:  # a ValueError: a closed file, or a NUL in a path
        raise unreadable(image, error) from error
    if not isinstance(data, bytes):
        raise UsageError(
            f"{name_of(image)} gives {type(data).__name__}, not bytes",
            hint='open it as a binary file: open(path, "rb")',
        )
    return data


def unreadable(image: Image, error: OSError | ValueError) -> UsageError:
    """Return the error for an image that cannot be read."""
    return UsageError(
        f"{name_of(image)} cannot be read: {getattr(error, 'strerror', None) or error}",
        hint="give the path of a JPEG or PNG file, or - for standard input",
    )
