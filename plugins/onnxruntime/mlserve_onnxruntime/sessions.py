"""Run one ONNX model by many threads at the same time.

How wide a call runs is chosen for each: alone on all threads, beside others on a share of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from queue import Empty, LifoQueue
from threading import local
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mlserve.backend import RUN_IT_OUTSIDE
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, Overloaded
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.system import usable_cpus
from mlserve.watchdog import stopped_at
from mlserve_onnxruntime.opening import opened, plain
from mlserve_onnxruntime.providers import is_cpu_only, providers_for, runs_on
from mlserve_onnxruntime.widths import sessions_of_widths, widths

Array = np.ndarray[Any, Any]


class Sessions:
    """Sessions of one file, for calls of several widths or for one call at a time each.

    On the CPU there is a session of each width, from all threads down to one: a call runs in the
    widest that `limit_threads` allows, beside others. `options.instances`, or another execution
    provider, fixes the number of sessions: the threads are divided among them, each runs one call
    at a time, and a call waits until one is free.
    """

    def __init__(
        self, path: Path, options: LoadOptions, precision: Precision = Precision.FP32
    ) -> None:
        """Load the file. Raises ModelLoadFailed, and PluginError for an unknown provider."""
        threads = options.threads or usable_cpus()
        providers = providers_for(options.provider)
        self._free: LifoQueue[Any] | None = None
        self._asked = _Asked()
        if options.instances is None and is_cpu_only(providers):
            self._widths = widths(threads)
            self.all = sessions_of_widths(path, self._widths, precision)
            self.runs_on = runs_on(self.all[0], precision)
            return
        count = options.instances or 1
        wide = max(1, threads // count)
        self.all = [
            opened(path, wide, providers, options.provider, precision) for _ in range(count)
        ]
        self.runs_on = runs_on(self.all[0], precision)
        self._free = LifoQueue()
        for session in self.all:
            self._free.put(session)

    @property
    def inputs(self) -> Sequence[Any]:
        """Return the model's inputs as ONNX Runtime describes them: name, type, shape."""
        return list(self.all[0].get_inputs())

    @property
    def outputs(self) -> Sequence[Any]:
        """Return the model's outputs, as `inputs`."""
        return list(self.all[0].get_outputs())

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return what the file says of itself, by key."""
        found: Mapping[str, str] = self.all[0].get_modelmeta().custom_metadata_map
        return found

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._asked.threads = threads

    def run(
        self, names: list[str], feeds: dict[str, Array], deadline: Deadline | None
    ) -> list[Array]:
        """Return the outputs of those names.

        Raises InvalidInput for input that the model rejects, DeadlineExceeded when the deadline
        passes (the run is aborted then), Overloaded when memory runs out, and InferenceFailed.
        """
        if self._free is None:
            return run_session(self._of_width(self._asked.threads), names, feeds, deadline)
        session = _taken(self._free, deadline)
        try:
            return run_session(session, names, feeds, deadline)
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Free the memory."""
        self.all = []
        self._free = None

    def _of_width(self, threads: int) -> Any:
        """Return the widest session that needs no more threads; 0 is any number."""
        if threads == 0:
            return self.all[0]
        of_width = zip(self._widths, self.all, strict=True)
        return next((session for width, session in of_width if width <= threads), self.all[-1])


class _Asked(local):
    """How many threads the calling thread has asked for."""

    threads = 0


def _taken(free: LifoQueue[Any], deadline: Deadline | None) -> Any:
    seconds = None if deadline is None else max(0.0, deadline.remaining())
    try:
        return free.get(timeout=seconds)
    except Empty:
        if deadline is None:
            raise
        raise deadline.exceeded("waiting for a session of the model") from None


def run_session(
    session: Any,
    names: list[str],
    feeds: dict[str, Array],
    deadline: Deadline | None = None,
) -> list[Array]:
    """Return the outputs of one session; see `Sessions.run`."""
    options = onnxruntime.RunOptions()
    try:
        with _stopped_at(deadline, options):
            outputs: list[Array] = session.run(names, feeds, options)
    except Exception as error:  # its errors have no common base
        if options.terminate and deadline is not None:
            raise deadline.exceeded("running the model") from error
        raise _explained(error) from error
    return outputs


def _stopped_at(deadline: Deadline | None, options: Any) -> AbstractContextManager[None]:
    """Return a context in which a run with these options is aborted when the deadline passes."""
    if deadline is None:
        return nullcontext()
    return stopped_at(deadline, partial(setattr, options, "terminate", True))


def _explained(error: Exception) -> MlserveError:
    if isinstance(error, ort_errors.InvalidArgument | ValueError | TypeError):
        return InvalidInput(
            f"the model refuses the input: {plain(error)}",
            hint="compare the input with the signature: mlserve metadata",
        )
    if isinstance(error, MemoryError) or "Failed to allocate memory" in str(error):
        return Overloaded(
            f"not enough memory to run the request: {plain(error)}",
            hint="send smaller requests, or give the server more memory",
        )
    return InferenceFailed(f"ONNX Runtime failed: {plain(error)}", hint=RUN_IT_OUTSIDE)
