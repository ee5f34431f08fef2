"""ONNX Runtime sessions: one model, loaded once or several times, run by many threads.

`--provider` takes the short names of ONNX Runtime's execution providers: `cpu`, `cuda`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Timer
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mlserve.artifact import EXPORT_AGAIN
from mlserve.backend import RUN_IT_OUTSIDE
from mlserve.deadline import Deadline
from mlserve.errors import (
    InferenceFailed,
    InvalidInput,
    MlserveError,
    ModelLoadFailed,
    Overloaded,
    PluginError,
    bounded,
)
from mlserve.hints import did_you_mean
from mlserve.load_options import LoadOptions
from mlserve.system import usable_cpus
from mlserve_onnxruntime.external_data import linked_files

AUTO = "auto"
CPU = "cpu"
_SUFFIX = "ExecutionProvider"
_REMOTE = "azure"
"""Sends requests to a remote service; it runs no model, but is in every build."""


def installed() -> dict[str, str]:
    """Map our name of each provider built in to ONNX Runtime's, in its own order."""
    names = onnxruntime.get_available_providers()
    short = {name.removesuffix(_SUFFIX).lower(): name for name in names}
    return {ours: theirs for ours, theirs in short.items() if ours != _REMOTE}


def providers_for(wanted: str | None) -> Sequence[str]:
    """Return ONNX Runtime's names of the providers to use, the preferred one first.

    `auto` (or None) takes all, in the order that ONNX Runtime recommends; the CPU always comes
    last, for what a device cannot do. Raises PluginError for a provider that is not installed.
    """
    known = installed()
    if wanted in (None, AUTO):
        return list(known.values())
    if wanted not in known:
        raise PluginError(
            f"the execution provider {wanted!r} is not installed (installed: {', '.join(known)})",
            hint=did_you_mean(str(wanted), known, "--provider ")
            + "leave --provider out, or install the build of onnxruntime that has it, such as "
            "onnxruntime-gpu (cuda) or onnxruntime-openvino (openvino)",
        )
    return list(dict.fromkeys([known[str(wanted)], known[CPU]]))


_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*/onnxruntime/core/\S+:\d+ .*?\) ")


def plain(error: BaseException | str) -> str:
    """Reduce an ONNX Runtime error to its essence, in one line."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error)))
    return bounded(text) or "no reason given"


Array = np.ndarray[Any, Any]
_log = logging.getLogger(__name__)

LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
)
"""The errors of ONNX Runtime for a file that it cannot load."""
ERRORS_ONLY = 3


class Sessions:
    """`options.instances` sessions of one file; each runs one call at a time.

    The threads are divided among them. A call waits until a session is free.
    """

    def __init__(self, path: Path, options: LoadOptions) -> None:
        """Load the file. Raises ModelLoadFailed, and PluginError for an unknown provider."""
        count = options.instances or 1
        threads = max(1, (options.threads or usable_cpus()) // count)
        self.all = [_session(path, threads, options.provider) for _ in range(count)]
        self._free: LifoQueue[Any] = LifoQueue()
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

    def run(
        self, names: Sequence[str], feeds: Mapping[str, Array], deadline: Deadline | None
    ) -> list[Array]:
        """Return the outputs of those names.

        Raises InvalidInput for input that the model rejects, DeadlineExceeded when the deadline
        passes (the run is aborted then), Overloaded when memory runs out, and InferenceFailed.
        """
        session = self._take(deadline)
        try:
            return run_session(session, names, feeds, deadline)
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Free the memory."""
        self.all = []
        self._free = LifoQueue()

    def _take(self, deadline: Deadline | None) -> Any:
        seconds = None if deadline is None else max(0.0, deadline.remaining())
        try:
            return self._free.get(timeout=seconds)
        except Empty:
            if deadline is None:
                raise
            raise deadline.exceeded("waiting for a session of the model") from None


def run_session(
    session: Any,
    names: Sequence[str],
    feeds: Mapping[str, Array],
    deadline: Deadline | None = None,
) -> list[Array]:
    """Return the outputs of one session; see `Sessions.run`."""
    with _ended_at(deadline) as run_options:
        try:
            outputs: list[Array] = session.run(list(names), dict(feeds), run_options)
        except Exception as error:  # its errors have no common base
            if run_options.terminate and deadline is not None:
                raise deadline.exceeded("running the model") from error
            raise _explained(error) from error
        return outputs


@contextmanager
def _ended_at(deadline: Deadline | None) -> Iterator[Any]:
    """Yield options for one run, which is aborted when the deadline passes."""
    options = onnxruntime.RunOptions()
    if deadline is None:
        yield options
        return
    timer = Timer(max(0.0, deadline.remaining()), setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


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


def _session(path: Path, threads: int, provider: str | None) -> Any:
    wanted = providers_for(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the CPU from everything else on this machine, including
    # this server's own event loop. A run on its own is as fast without spinning (57 ms either way
    # for Inception v3 on two cores); beside a second process it takes 60 ms instead of 100.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERRORS_ONLY
    try:
        session = _opened(path, options, wanted)
    except LOAD_ERRORS as error:
        raise ModelLoadFailed(
            f"ONNX Runtime cannot load {path}: {plain(error)}",
            hint=EXPORT_AGAIN,
        ) from error
    _check_provider(session, wanted[0], provider)
    return session


def _opened(path: Path, options: Any, providers: Any) -> Any:
    """Open a session; if it refuses links to its weights, pass it the mapped targets."""
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except LOAD_ERRORS:
        linked = linked_files(path.parent)
        if not linked:
            raise
        names, files = list(linked), list(linked.values())
        options.add_external_initializers_from_files_in_memory(names, files, list(map(len, files)))
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        for mapped in files:  # only now: the session reads them until here, then has copies
            mapped.close()
        return session


def _check_provider(session: Any, first: str, asked: str | None) -> None:
    used = session.get_providers()
    if asked not in (None, AUTO) and first not in used:
        raise ModelLoadFailed(
            f"the execution provider {asked!r} is installed but does not start here",
            hint="check its device and driver, or leave --provider out",
        )
    _log.info("ONNX Runtime runs the model on %s", ", ".join(used))
