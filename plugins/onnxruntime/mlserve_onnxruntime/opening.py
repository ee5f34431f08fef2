"""Open an ONNX file as a session of ONNX Runtime, with a number of threads of its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mlserve.artifact import EXPORT_AGAIN
from mlserve.errors import ModelLoadFailed, bounded
from mlserve.precision import Precision
from mlserve_onnxruntime.external_data import linked_files
from mlserve_onnxruntime.providers import AUTO, configured

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
_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*/onnxruntime/core/\S+:\d+ .*?\) ")
_SPIN = 50
"""Microseconds for which a thread looks for more work before it sleeps.

Waking a thread for each operation costs a small model a fifth of its speed. Threads that spin for
longer gain a few per cent on an idle machine, and lose a third beside another process. Versions of
ONNX Runtime that do not know the limit (pull request 27916) spin until the end of the run.
"""


def plain(error: BaseException | str) -> str:
    """Reduce an ONNX Runtime error to its essence, in one line."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error)))
    return bounded(text) or "no reason given"


def opened(
    path: Path, threads: int, providers: Sequence[str], asked: str | None, precision: Precision
) -> Any:
    """Open a session. `asked` is the value of `--provider`. Raises ModelLoadFailed."""
    try:
        session = open_file(
            path, session_options(threads, precision), configured(providers, precision)
        )
    except LOAD_ERRORS as error:
        raise load_failed(path, error) from error
    used = session.get_providers()
    if asked not in (None, AUTO) and providers[0] not in used:
        raise ModelLoadFailed(
            f"the execution provider {asked!r} is installed but does not start here",
            hint="check its device and driver, or leave --provider out",
        )
    _log.info("ONNX Runtime runs the model on %s", ", ".join(used))
    return session


def load_failed(path: Path, error: Exception) -> ModelLoadFailed:
    """Return the error for a file that ONNX Runtime refuses."""
    return ModelLoadFailed(
        f"ONNX Runtime cannot load {path}: {plain(error)}",
        hint=EXPORT_AGAIN,
    )


def session_options(threads: int, precision: Precision = Precision.FP32) -> Any:
    """Return the options of a session whose calls run on that many threads.

    On an x86 CPU without VNNI, the fast product of uint8 and int8 saturates: measured with AVX2,
    scores were wrong by up to 0.63. "x64quantprecision" makes ONNX Runtime take another one there,
    which gives the bits that VNNI gives; on other CPUs it changes nothing.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    for key, value in {
        "session.intra_op.allow_spinning": 1,
        "session.intra_op.spin_duration_us": _SPIN,
        "session.force_spinning_stop": 1,
        "session.x64quantprecision": 1,
        "mlas.enable_gemm_fastmath_arm64_bfloat16": int(precision is Precision.BF16),
    }.items():
        options.add_session_config_entry(key, str(value))
    return options


def open_file(path: Path, options: Any, providers: Sequence[Any]) -> Any:
    """Open a session; if it refuses links to its weights, pass it the mapped targets.

    Raises one of LOAD_ERRORS.
    """
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
