"""Open what a model's options ask for: a version, or the versions of a ladder as one.

The rungs are loaded and unloaded together, each as it would be by itself, with its files and its
certificate checked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Backend, Runner, RunsOn
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GoldenCase, read_golden
from mlserve.certificate.verdict import CaseVerdict, judge
from mlserve.errors import ModelLoadFailed
from mlserve.images import tiny_png
from mlserve.ladder.rungs import SCORE_OUTPUTS, Ladder, Rung, read_ladder, store_of
from mlserve.ladder.runner import LadderRunner
from mlserve.load_options import LoadOptions, OnDrift
from mlserve.server.models.loading import (
    LoadedVersion,
    as_load_error,
    first_inputs,
    open_version,
)
from mlserve.server.models.standing import Standing, read
from mlserve.server.models.versions import ModelSpec
from mlserve.sources import Kind
from mlserve.store import VersionPolicy
from mlserve.tensors import DEFAULT_SIGNATURE

_log = logging.getLogger(__name__)
_ASKED = 4
"""Golden inputs of the other rungs that the last rung is asked."""


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
            _require_one_model(ladder, opened)
            _measure(runner)
        stack.pop_all()
    names = ", ".join(f"{rung.name} ({rung.reference})" for rung in ladder.rungs)
    _log.info("%s is served on a ladder: %s", source.model, names)
    artifact = replace(top.artifact, model=source.model)
    standing = _joined(source, ladder, [each.standing for each in opened])
    return LoadedVersion(artifact, runner, source.width, standing=standing, ladder=ladder)


def read_served(
    source: ModelSpec, ladder: Ladder | None, artifact: Artifact, runner: Runner
) -> Standing:
    """Return the standing of a version, or of a ladder, that has not been asked yet.

    Raises ModelLoadFailed.
    """
    if ladder is None:
        return read(source, artifact, runner)
    specs = [_spec(source, rung) for rung in ladder.rungs]
    artifacts = [
        Artifact.open(spec.base_path, spec.model, rung.reference.version)
        for spec, rung in zip(specs, ladder.rungs, strict=True)
    ]
    standings = [read(spec, each, runner) for spec, each in zip(specs, artifacts, strict=True)]
    return _joined(source, ladder, standings)


def _joined(source: ModelSpec, ladder: Ladder, standings: Sequence[Standing]) -> Standing:
    """Return the standing of all rungs, each with the golden inputs of its own certificate."""
    cases, verdicts = list[GoldenCase](), dict[str, CaseVerdict]()
    rungs: dict[str, tuple[int, Certificate]] = {}
    certificate = None
    for place, (rung, standing) in enumerate(zip(ladder.rungs, standings, strict=True)):
        if standing.certificate is None:
            continue
        certificate = standing.certificate
        for case in standing.cases:
            name = f"{rung.name}: {case.name}"
            cases.append(replace(case, name=name))
            rungs[name] = place, certificate
            if case.name in standing.verdicts:
                verdicts[name] = replace(standing.verdicts[case.name], name=name)
    on_drift = source.options.on_drift or OnDrift.REFUSE
    where = _all([standing.runs_on for standing in standings])
    return Standing(where, certificate, cases, on_drift, verdicts, rungs=rungs)


def _all(found: Sequence[RunsOn]) -> RunsOn:
    """Return what runs the rungs; what is alike is said once."""
    parts = zip(*((each.runtime, each.precision, each.device) for each in found), strict=True)
    return RunsOn(*(",".join(dict.fromkeys(part)) for part in parts))


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


def _require_one_model(ladder: Ladder, opened: Sequence[LoadedVersion]) -> None:
    """Raise ModelLoadFailed unless the last rung gives the right answers of the others, too.

    Each was held to its own golden inputs already. So the rungs are of one model, whatever their
    names are; and their scores are such as margins can be taken of.
    """
    top = opened[-1]
    for rung, loaded in zip(ladder.rungs[:-1], opened[:-1], strict=True):
        certificate = loaded.artifact.manifest and loaded.artifact.manifest.certificate
        if not certificate or not certificate.cases:
            continue
        own = top.artifact.manifest and top.artifact.manifest.certificate
        cases = read_golden(loaded.artifact.path)[:_ASKED]
        for case in cases:
            _require_scores_below_one(rung, case)
        problems = judge(top.artifact, top.runner, cases, own or certificate).problems
        if problems:
            raise ModelLoadFailed(
                f"{rung.reference} and {ladder.top.reference} are not rungs of one ladder: to the "
                f"golden input {problems[0].name} of the first, the last answers otherwise: "
                f"{problems[0].problem}",
                hint="export both from the same model: mlserve export --precision "
                f"{ladder.top.name}",
            )


def _require_scores_below_one(rung: Rung, case: GoldenCase) -> None:
    for name in SCORE_OUTPUTS:
        scores = case.expected.get(name)
        if scores is not None and np.abs(scores).max(initial=0.0) > 1:
            raise ModelLoadFailed(
                f"{rung.reference} cannot be on a ladder: its {name} go beyond 1, so its "
                "certificate does not say by how much two of them may differ",
                hint="export a model that returns probabilities; serve this one without --ladder",
            )


def _measure(runner: LadderRunner) -> None:
    """Have each rung's time measured once more, now that it is warm."""
    names = sorted(runner.signatures, key=lambda name: (name != DEFAULT_SIGNATURE, name))
    signature = runner.signatures[names[0]]
    try:
        runner.measure(signature.name, first_inputs(signature, tiny_png()))
    except Exception as error:  # noqa: BLE001 - zeros need not be an input that it takes
        _log.info("the time of the rungs is measured later, as zeros gave: %s", error)
