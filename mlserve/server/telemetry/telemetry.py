"""Begin and end the record of each request, in the same way on both ports."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlserve.server import request
from mlserve.server.request import RequestRecord, Route
from mlserve.server.telemetry.metrics import Metrics
from mlserve.server.telemetry.request_log import RequestLog
from mlserve.server.telemetry.statistics import Statistics


class Telemetry:
    """Counts and logs a server's requests.

    The ports begin and end each request here; the engine reports work to `metrics` and `statistics`
    itself, as work may outlive its request.
    """

    def __init__(self, metrics: Metrics, log: RequestLog) -> None:
        self.metrics = metrics
        self.statistics = Statistics()
        self._log = log

    def begin(
        self, route: Route, header: Callable[[str], str | None], address: str = ""
    ) -> RequestRecord:
        """Create the record of a request that just arrived, and make it the running task's.

        `header` returns a header by lower-case name; `address` is the peer's IP address, empty if
        it has none.
        """
        record = RequestRecord.arrived(route, header, address)
        request.begin(record)
        return record

    def end(self, ended: RequestRecord) -> None:
        """Count and log a request whose answer has been written."""
        seconds = time.monotonic() - ended.began
        self.metrics.request(ended, seconds)
        self.statistics.request(ended, seconds)
        self._log.note(ended, seconds)
