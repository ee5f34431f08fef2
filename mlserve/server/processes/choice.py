"""Open a version here or in processes of its own: `--processes`.

One interpreter runs Python on one core at a time: for each call that is the reading of the request,
the steps of an image pipeline around the runtime, and the answer. A large model on few cores does
not notice; a small one on many cores does. So without the option, a version whose calls are short
for the number of cores gets a process for each core: `PER_CORE`. One that keeps state does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace

from mlserve.artifact import Artifact
from mlserve.backend import batching_of, keeps_state
from mlserve.server.models.ladders import ladder_of, open_served, read_served
from mlserve.server.models.loading import LoadedVersion, as_load_error, warm_up
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.pool import RunnerProcesses
from mlserve.settings import LogFormat
from mlserve.system import resident_bytes, usable_cpus, usable_memory

_log = logging.getLogger(__name__)
FEW_CPUS = 2
"""With so many CPUs, processes gain nothing for want of cores beside the server's own."""
PER_CORE = 0.0025
"""Seconds of a run, over all threads, for each CPU, below which a version gets processes.

With c CPUs and a run of r core-seconds the cores take c / r calls a second. The interpreter of one
process takes about 400 of an image classifier's, with no more than half of its time gone.
"""


class Opener:
    """Opens versions, each as its model's options and its size ask."""

    def __init__(self, log_format: LogFormat, on_change: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._log_format = log_format
        self._on_change = on_change

    def open(self, source: ModelSpec, version: int) -> LoadedVersion:
        """Load and warm up a version, on any thread but the event loop's. Raises MlserveError."""
        asked = source.options.processes
        if asked is None:
            return self._chosen(source, version)
        if asked <= 1:
            return open_served(source, version)
        return self._in_processes(source, version, asked)

    def _chosen(self, source: ModelSpec, version: int) -> LoadedVersion:
        loaded, cpus = open_served(source, version), usable_cpus()
        runner = loaded.runner
        if cpus <= FEW_CPUS or batching_of(runner) is not None or keeps_state(runner):
            return loaded
        began = time.process_time()
        warm_up(loaded.artifact, runner)
        seconds = time.process_time() - began
        if seconds > PER_CORE * cpus:
            return loaded
        count = min(source.options.threads or cpus, cpus, _that_fit_in_memory())
        if count == 1:
            return loaded
        runner.close()
        return self._in_processes(source, version, count)

    def _in_processes(self, source: ModelSpec, version: int, count: int) -> LoadedVersion:
        threads = source.options.threads or usable_cpus()
        if not source.backend.limits_threads:  # else a call that is alone may have them all
            threads = max(1, threads // count)
        options = replace(source.options, threads=threads, processes=1)
        pool = RunnerProcesses(
            replace(source, options=options), version, count, self._log_format, self._on_change
        )
        ladder = ladder_of(source, version)
        with as_load_error(source, version):
            artifact = Artifact.open(source.base_path, source.model, version)
            pool.start()
            try:
                standing = read_served(source, ladder, artifact, pool)
            except BaseException:
                pool.abandon()
                raise
        self._loop.call_soon_threadsafe(pool.attach)
        _log.info("version %d of %s runs in %d processes", version, source.model, count)
        width = count if source.width is None else min(count, source.width)
        return LoadedVersion(artifact, pool, width, pool, standing, ladder)


def _that_fit_in_memory() -> int:
    """Return how many processes as large as this one, which has the model, fit in half of it."""
    return max(1, usable_memory() // 2 // max(1, resident_bytes(os.getpid())))
