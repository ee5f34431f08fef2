"""The threads of the server that run calls: for the versions that have no processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlserve.server.engine.work import Work, run_works
from mlserve.server.models.loading import Done


class WorkerThreads:
    """A fixed number of threads, on which the works of all versions are done."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="mlserve-run")

    def submit(self, works: Sequence[Work[Any]], done: Done) -> None:
        """Do the works one after another on a thread, or as a batch; then call `done`."""

        def ended(finished: Future[list[int]]) -> None:
            error = finished.exception()  # of batching itself: a work's own is its `error`
            result = finished.result() if error is None else error
            self._loop.call_soon_threadsafe(done, result)

        self._threads.submit(run_works, works).add_done_callback(ended)

    def close(self) -> None:
        """Let the threads end, each after what it does now."""
        self._threads.shutdown(wait=False)
