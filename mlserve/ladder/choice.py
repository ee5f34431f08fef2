"""Choose the rungs of a ladder: exported versions, by their precisions or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend_choice import require_runtime
from mlserve.errors import MlserveError, NotFound, UsageError, shortened
from mlserve.ladder.rungs import Reference, read_ladder, split
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.store import Store

Held = Mapping[Precision, Reference]
"""The newest version of each precision that a backend has of a model."""


def chosen_ladder(
    options: LoadOptions, backend: str | None, model: str | None, store: Store
) -> tuple[Reference, LoadOptions]:
    """Return the last rung of `options.ladder`, and the options with every rung's version named.

    `backend` and `model` are those that the user has named. Raises UsageError for rungs that are
    named wrongly or leave a choice, NotFound for those that are not there, ModelLoadFailed for
    versions that are not one ladder, and PluginError for a missing runtime.
    """
    assert options.ladder is not None, "the caller has looked"
    parts = split(options.ladder)
    if all("/" in part for part in parts):
        rungs = [Reference.parse(part) for part in parts]
        _require_named(rungs[-1], backend, model)
    else:
        rungs = _by_precision([_precision(part) for part in parts], backend, model, store)
    text = ",".join(map(str, rungs))
    ladder = read_ladder(text, store, options.ladder_policy)
    for name in dict.fromkeys(rung.backend for rung in rungs):
        require_runtime(plugins.backend(name))
    return ladder.top.reference, replace(options, ladder=text)


def _require_named(top: Reference, backend: str | None, model: str | None) -> None:
    for flag, given, own in (("--backend", backend, top.backend), ("--model", model, top.model)):
        if given not in (None, own):
            raise UsageError(
                f"the last rung of the ladder, {top}, is not of {flag} {given}",
                hint=f"leave {flag} out: the rungs are named already",
            )


def _precision(text: str) -> Precision:
    try:
        return Precision(text)
    except ValueError:
        raise UsageError(
            f"{shortened(text)!r} is not a valid rung",
            hint=f"give precisions ({', '.join(Precision)}) or versions such as "
            "onnxruntime/MODEL@3, not both",
        ) from None


def _by_precision(
    wanted: Sequence[Precision], backend: str | None, model: str | None, store: Store
) -> list[Reference]:
    model = model or _only_model(wanted, backend, store)
    backends = store.backends() if backend is None else [backend]
    held = {name: _held(name, model, store) for name in backends}
    whole = [name for name, there in held.items() if set(wanted) <= set(there)]
    if len(whole) == 1:
        return [held[whole[0]][precision] for precision in wanted]
    if whole:
        raise UsageError(
            f"{len(whole)} backends have {model} in {_words(wanted)}: {', '.join(whole)}",
            hint="choose one with --backend, or name the versions: --ladder "
            + ",".join(str(held[whole[0]][precision]) for precision in wanted),
        )
    return [_only(precision, backend, model, list(held.values())) for precision in wanted]


def _only_model(wanted: Sequence[Precision], backend: str | None, store: Store) -> str:
    """Return the only model that has all these precisions, on whichever backends."""
    precisions: dict[str, set[Precision]] = {}
    for name, model in store.exported():
        if backend in (None, name):
            precisions.setdefault(model, set()).update(_held(name, model, store))
    fits = [model for model, there in precisions.items() if set(wanted) <= there]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(
            f"{len(fits)} models were exported in {_words(wanted)}: {', '.join(fits)}",
            hint="choose one with --model",
        )
    raise NotFound(
        f"no model was exported in {_words(wanted)}",
        hint=_export_in(wanted[0], backend, "NAME"),
    )


def _held(backend: str, model: str, store: Store) -> Held:
    found: dict[Precision, Reference] = {}
    for version in store.versions(backend, model):
        try:
            manifest = Artifact.open(store.base_path(backend, model), model, version).manifest
        except MlserveError:  # cannot be read: `mlserve models` says so
            continue
        if manifest is not None:
            found[manifest.precision] = Reference(backend, model, version)
    return found


def _only(precision: Precision, backend: str | None, model: str, held: Sequence[Held]) -> Reference:
    found = [there[precision] for there in held if precision in there]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} backends have {model} in {precision}: {', '.join(map(str, found))}",
            hint="name the version of each rung: --ladder BACKEND/MODEL@VERSION,...",
        )
    there = sorted({each.value for names in held for each in names})
    raise NotFound(
        f"{model} was not exported in {precision} (there: {', '.join(there) or 'none'})",
        hint=_export_in(precision, backend, model),
    )


def _export_in(precision: Precision, backend: str | None, model: str) -> str:
    """Return the command that exports the model so; DIR has images or rows to calibrate on."""
    for_backend = "" if backend is None else f"--backend {backend} "
    calibrated = " --calibration DIR" if precision.needs_calibration else ""
    return f"mlserve export {for_backend}--model {model} --precision {precision}{calibrated}"


def _words(precisions: Sequence[Precision]) -> str:
    return " and ".join(precisions)
