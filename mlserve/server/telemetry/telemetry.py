"""Begin and end the record of each request, in the same way on both ports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mlserve.server import request
from mlserve.server.peer import UNKNOWN_PEER, Peer
from mlserve.server.request import Purpose, RequestRecord, Route, Sample
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.statistics import Statistics
from mlserve.wire.headers import REQUEST_PROBE


class Observer(Protocol):
    """Is told of every request that ended, on the event loop: it must neither wait nor raise."""

    def ended(self, record: RequestRecord, seconds: float, /) -> None:
        """Take note of a request whose answer was written so many seconds after it arrived."""


class Sampler(Protocol):
    """Decides, on the event loop, which requests are traced."""

    def decide(self, record: RequestRecord, header: Callable[[str], str | None], /) -> None:
        """Set the flags of the record's span; `header` returns a header by lower-case name."""


class Telemetry:
    """Counts and logs a server's requests.

    The ports begin and end each request here; the engine reports work to `metrics` and `statistics`
    itself, as work may outlive its request.
    """

    def __init__(self, metrics: Metrics, log: RequestLog) -> None:
        self.metrics = metrics
        self.statistics = Statistics()
        self._log = log
        self.sampler: Sampler | None = None
        """Without one, a trace that begins here is not sampled."""
        self._observers: tuple[Observer, ...] = ()
        self._sample: Callable[[], Sample | None] | None = None

    def sample_with(self, sample: Callable[[], Sample | None]) -> None:
        """Ask it for each predict request but probes whether its bytes are kept, and where."""
        self._sample = sample

    def add_observer(self, observer: Observer) -> None:
        """Tell it, too, of every request that ends from now on."""
        self._observers += (observer,)

    def begin(
        self,
        route: Route,
        header: Callable[[str], str | None],
        address: str = "",
        peer: Peer = UNKNOWN_PEER,
    ) -> RequestRecord:
        """Create the record of a request that just arrived, and make it the running task's.

        `header` returns a header by lower-case name; `address` is the peer's IP address, empty if
        it has none.
        """
        record = RequestRecord.arrived(route, header, address, peer)
        if route.purpose is Purpose.PREDICT:
            record.is_probe = header(REQUEST_PROBE) is not None
            if self._sample is not None and not record.is_probe:
                record.sample = self._sample()
        if self.sampler is not None:
            self.sampler.decide(record, header)
        request.begin(record)
        return record

    def end(self, ended: RequestRecord) -> None:
        """Count and log a request whose answer has been written."""
        seconds = time.monotonic() - ended.began
        self.metrics.request(ended, seconds)
        self.statistics.request(ended, seconds)
        self._log.note(ended, seconds)
        for observer in self._observers:
            observer.ended(ended, seconds)
