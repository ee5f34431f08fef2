"""One request as the server sees it: what its log, its metrics and its answer tell of it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class StageTimes:
    """Where a request's time went in the server, in seconds.

    `queue` is from admission until a worker takes it up, `decode` and `encode` are the tensors'
    way in and out, `run` is the model. A stage that was not reached is 0.
    """

    queue: float = 0.0
    decode: float = 0.0
    run: float = 0.0
    encode: float = 0.0


@dataclass(slots=True)
class Exchange:
    """A request from its arrival to its answer; filled in as it goes on.

    `request_id` is the client's or one of our own, `traceparent` is W3C's header, sent on in the
    answer. `version` and `signature` are known once the request has been read.
    """

    request_id: str = ""
    traceparent: str = ""
    model: str = ""
    version: int | None = None
    signature: str = ""
    times: StageTimes = field(default_factory=StageTimes)


_CURRENT: ContextVar[Exchange | None] = ContextVar("mlserve_exchange", default=None)


def begin(exchange: Exchange) -> None:
    """Makes this the exchange of the running task: each port calls it once for each request."""
    _CURRENT.set(exchange)


def current() -> Exchange:
    """The exchange of the running task; a blank one outside of a request."""
    return _CURRENT.get() or Exchange()
