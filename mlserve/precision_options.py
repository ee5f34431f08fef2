"""The options of `mlserve export` about precision: what is refused before a model is opened."""

from __future__ import annotations

from mlserve import plugins
from mlserve.backend import Backend
from mlserve.errors import MlserveError, UsageError
from mlserve.sources import ModelRequest


def require_fitting(request: ModelRequest) -> None:
    """Raise UsageError for options about precision that do not go together."""
    precision, least = request.precision, request.min_agreement
    if precision.needs_calibration and request.calibration is None:
        raise UsageError(
            f"--precision {precision} needs inputs of the model, to measure the ranges of its "
            "numbers on",
            hint="give some that are like those in use, a few hundred are enough: --calibration "
            "DIR; of a model of tensors, a table of rows",
        )
    if request.calibration is not None and not precision.needs_calibration:
        raise UsageError(
            f"--calibration has no effect on {precision}: only int8 needs it",
            hint=f"leave it out, or measure the agreement on it: --held-out {request.calibration}",
        )
    if least is not None and not 0 <= least <= 1:
        raise UsageError(
            f"--min-agreement {least:g} is not a share of the inputs",
            hint="give a number from 0 to 1, such as 0.99",
        )
    if least is not None and not _is_measured(request):
        raise UsageError(
            f"--min-agreement {least:g} has no effect: nothing is measured of fp32",
            hint="leave it out, or give inputs to measure the agreement on: --held-out DIR",
        )
    for option, path in (
        ("--calibration", request.calibration),
        ("--held-out", request.held_out),
    ):
        if path is not None and not path.exists():
            raise UsageError(f"{option} {path} does not exist", hint="check the path")


def _is_measured(request: ModelRequest) -> bool:
    return request.held_out is not None or not request.precision.is_reference


def require_precision(request: ModelRequest, backend: Backend) -> None:
    """Raise UsageError for a precision that the backend does not export."""
    precision = request.precision
    if precision in backend.precisions:
        return
    others = [name for name in plugins.backend_names() if precision in _precisions(name)]
    elsewhere = f", or export for --backend {others[0]}" if others else ""
    raise UsageError(
        f"the backend {backend.name} does not export {precision}",
        hint=f"it has --precision {', '.join(backend.precisions)}{elsewhere}",
    )


def _precisions(backend: str) -> tuple[str, ...]:
    """Return what the backend exports; nothing if its plugin does not load."""
    try:
        return plugins.backend(backend).precisions
    except MlserveError:
        return ()
