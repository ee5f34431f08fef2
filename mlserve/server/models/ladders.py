"""Open what a model's options ask for: a version, or the versions of a ladder as one.

The rungs are loaded and unloaded together, each as it would be by itself, with its files and its
certificate checked.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace

from mlserve import plugins
from mlserve.backend import Backend
from mlserve.errors import ModelLoadFailed
from mlserve.images import tiny_png
from mlserve.ladder.rungs import Ladder, Rung, read_ladder, store_of
from mlserve.ladder.runner import LadderRunner
from mlserve.load_options import LoadOptions
from mlserve.server.models.loading import (
    LoadedVersion,
    as_load_error,
    first_inputs,
    open_version,
)
from mlserve.server.models.versions import ModelSpec
from mlserve.sources import Kind
from mlserve.store import VersionPolicy
from mlserve.tensors import DEFAULT_SIGNATURE

_log = logging.getLogger(__name__)


def open_served(source: ModelSpec, version: int) -> LoadedVersion:
    """Load and warm up a version, with the other rungs if its model is served on a ladder.

    Raises nothing but MlserveError.
    """
    ladder = ladder_of(source, version)
    return open_version(source, version) if ladder is None else _open(source, ladder)


def ladder_of(source: ModelSpec, version: int) -> Ladder | None:
    """Return the ladder whose last rung is that version; None if it is served by itself.

    Raises nothing but MlserveError.
    """
    options = source.options
    if options.ladder is None:
        return None
    with as_load_error(source, version):
        ladder = read_ladder(options.ladder, store_of(source.base_path), options.ladder_policy)
        if ladder.top.reference.version != version:
            raise ModelLoadFailed(
                f"version {version} is not on the ladder {options.ladder}, whose last rung is "
                f"{ladder.top.reference}",
                hint="start the server again: a ladder is of fixed versions",
            )
        return ladder


def _open(source: ModelSpec, ladder: Ladder) -> LoadedVersion:
    opened: list[LoadedVersion] = []
    with ExitStack() as stack:
        for rung in ladder.rungs:
            loaded = open_version(_spec(source, rung), rung.reference.version)
            stack.callback(loaded.runner.close)
            opened.append(loaded)
        top = opened[-1]
        manifest = top.artifact.manifest
        assert manifest is not None, "the ladder was read from the manifests"
        has_images = manifest.kind is Kind.IMAGE_CLASSIFIER
        runner = LadderRunner(ladder, [each.runner for each in opened], has_images=has_images)
        with as_load_error(source, top.version):
            _measure(runner)
        stack.pop_all()
    names = ", ".join(f"{rung.name} ({rung.reference})" for rung in ladder.rungs)
    _log.info("%s is served on a ladder: %s", source.model, names)
    artifact = replace(top.artifact, model=source.model)
    return LoadedVersion(artifact, runner, source.width, ladder=ladder)


def _spec(source: ModelSpec, rung: Rung) -> ModelSpec:
    reference = rung.reference
    backend = plugins.backend(reference.backend)
    return replace(
        source,
        backend=backend,
        model=reference.model,
        base_path=store_of(source.base_path).base_path(reference.backend, reference.model),
        policy=VersionPolicy((reference.version,)),
        options=options_for(backend, source.options),
    )


def options_for(backend: Backend, options: LoadOptions) -> LoadOptions:
    """Return the options of a rung: those that its backend has."""
    kept = {name: value for name, value in options.changed.items() if backend.regards(name)}
    return LoadOptions(**{**kept, "ladder": None, "ladder_policy": None})


def _measure(runner: LadderRunner) -> None:
    """Have each rung's time measured once more, now that it is warm."""
    names = sorted(runner.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    signature = runner.signatures[names[0]]
    try:
        runner.measure(signature.name, first_inputs(signature, tiny_png()))
    except Exception as error:  # noqa: BLE001 - zeros need not be an input that it takes
        _log.info("the time of the rungs is measured later, as zeros gave: %s", error)
