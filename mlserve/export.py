"""Export a model: a model source opens it, a backend writes it, the store publishes it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import packages_distributions
from importlib.metadata import version as distribution_version
from pathlib import Path
from traceback import walk_tb
from types import MappingProxyType
from typing import TYPE_CHECKING

from mlserve import __version__, plugins
from mlserve.artifact import Artifact, Manifest, digest_of, labels_text
from mlserve.backend import Backend, Runner
from mlserve.backend_choice import backend_for
from mlserve.distributions import MODELS, install_command, not_installed
from mlserve.errors import (
    ExportError,
    MlserveError,
    ModelLoadFailed,
    NotFound,
    PluginError,
    UsageError,
    reason_of,
)
from mlserve.hints import did_you_mean
from mlserve.images import RGB
from mlserve.incoming import Incoming, VersionExists
from mlserve.kinds import require_fitting_options, require_kind
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Feature, features_of
from mlserve.precision_options import require_fitting, require_precision
from mlserve.preprocessors.applied import applied
from mlserve.preprocessors.choice import preprocessor
from mlserve.remote.address import is_remote
from mlserve.remote.resolving import Fetched, addresses_named, localized, named, not_cached
from mlserve.sources import (
    SOME_USE,
    Classifier,
    Fact,
    How,
    Model,
    ModelRequest,
    ModelSource,
    Progress,
    TensorModel,
)
from mlserve.store import (
    Store,
    check_name,
    present_versions,
    version_taken,
)
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.calibration import Samples


def no_progress(what: str, done: int, total: int | None) -> None:
    """The default Progress: show nothing."""


def export(
    request: ModelRequest,
    backend: str | None = None,
    *,
    store: Path | None = None,
    version: int | None = None,
    progress: Progress = no_progress,
) -> Artifact:
    """Export the requested model into the store.

    `backend` None takes the one that the model's files are for, or the default. `store` is the root
    of the store, by default the user's own. `version` None takes the next number. Cheap checks come
    before any heavy import. Raises UsageError, NotFound, PluginError and ExportError, and then
    leaves nothing behind.
    """
    into = Store(store)
    chosen = None if backend is None else plugins.backend(backend)
    check_name("model", request.model)
    _require_weights(request)
    request.pixels.require_fitting()
    require_fitting(request)
    if chosen is not None:  # before anything is fetched
        _require_possible(request, chosen, into, version)
    request, fetched = localized(request, progress)
    with addresses_named(fetched):
        return _exported(request, fetched, backend, into, version, progress)


def _exported(
    request: ModelRequest,
    fetched: Fetched,
    backend: str | None,
    into: Store,
    version: int | None,
    progress: Progress,
) -> Artifact:
    request = replace(request, labels=request.given_labels())
    source = _source_for(request)
    require_kind(request, source)
    _require_used(request, source)
    _require_fetched(request, source)
    if request.preprocessor is not None:
        request = applied(request, preprocessor(request.preprocessor))
        request.pixels.require_fitting()
    runtime = plugins.backend(backend_for(request, source, backend))
    _require_possible(request, runtime, into, version)
    _require_installed(f"the model source {source.name}", source)
    with into.incoming(runtime.name, request.model) as incoming:
        model, signatures, samples = _write(request, source, runtime, incoming.path, progress)
        manifest = manifest_of(model, runtime.name, signatures, _libraries(runtime, source))
        manifest = replace(manifest, precision=request.precision, idempotent=request.idempotent)
        if request.precision.is_reference:
            manifest = replace(manifest, own_precision=runtime.own_precision)
        manifest = _with_origin(manifest, fetched)
        labels = model.labels if isinstance(model, Classifier) else ()
        manifest.write_labels(incoming.path, labels)
        if isinstance(model, TensorModel):
            manifest = _with_omissions(manifest, model)
        if isinstance(model, TensorModel) or model.reference is not None:
            progress(f"trying {request.model}", 0, None)
            artifact = Artifact(incoming.path, model.name, 0, manifest)
            manifest = _tried(request, model, runtime, artifact, samples, progress)
        manifest.write(incoming.path, labels)
        folder = _publish(incoming, version)
    return Artifact.open(folder.parent, request.model, int(folder.name))


def _write(
    request: ModelRequest, source: ModelSource, runtime: Backend, into: Path, progress: Progress
) -> tuple[Model, Sequence[Signature], Samples | None]:
    progress(f"importing the {runtime.name} runtime", 0, None)
    with _library_errors_named(f"the backend {runtime.name}", runtime):
        runtime.prepare(source.framework)
    progress(f"opening {request.model}", 0, None)
    with _library_errors_named(f"the model source {source.name}", source):
        model = source.open(request, progress)
    if isinstance(model, TensorModel):
        require_fitting_options(request, model)
    else:
        _require_buildable(model.pipeline.features, runtime)
    samples = _samples(request, model, progress)
    progress(f"writing {request.model} for {runtime.name}", 0, None)
    with _library_errors_named(f"the backend {runtime.name}", runtime):
        if samples is None or request.precision.is_reference:
            return model, runtime.export(model, into), samples
        with samples.faults_named():
            return model, runtime.export_at(model, into, samples.quantization), samples


def _samples(request: ModelRequest, model: Model, progress: Progress) -> Samples | None:
    """Return the user's inputs to quantise and to measure on, None if nothing is measured."""
    if request.precision.is_reference and request.held_out is None:
        return None
    from mlserve.calibration import samples_of

    return samples_of(request, model, progress)


def _with_origin(manifest: Manifest, fetched: Fetched) -> Manifest:
    """Return the manifest with what was fetched, and its address as the source."""
    facts = {
        name: replace(fact, why=named(fact.why, fetched), warning=named(fact.warning, fetched))
        for name, fact in manifest.facts.items()
    }
    origins = {option: resolved.to_json() for option, resolved in fetched.items()}
    source = named(manifest.source, fetched)
    return replace(manifest, source=source, facts=facts, fetched=origins)


def _with_omissions(manifest: Manifest, model: TensorModel) -> Manifest:
    """Return the manifest with a warning about signatures that the backend has left out."""
    written = {signature.name for signature in manifest.signatures}
    omitted = ", ".join(s.name for s in model.signatures if s.name not in written)
    if not omitted or len(written) == len(model.signatures):  # a backend may rename the only one
        return manifest
    warning = f"the backend {manifest.backend} does not export the signatures {omitted}"
    fact = Fact(How.FOUND, f"the signatures {omitted}", warning)
    return replace(manifest, facts={**manifest.facts, "omitted": fact})


def _tried(
    request: ModelRequest,
    model: Model,
    runtime: Backend,
    artifact: Artifact,
    samples: Samples | None,
    progress: Progress,
) -> Manifest:
    """Load what was written, as a server will, and return the manifest with what that tells.

    Raises ExportError if it cannot be loaded, or does not give the right answers.
    """
    manifest = artifact.manifest
    if manifest is None:
        raise ValueError("only what has just been exported is tried")
    with _library_errors_named(f"the backend {runtime.name}", runtime):
        from mlserve.agreement import gated
        from mlserve.certificate.making import certified

        runner = _loaded(request, runtime, artifact)
        try:
            if isinstance(model, TensorModel):
                manifest = _with_rows(manifest, runner)
            progress(f"certifying {request.model}", 0, None)
            manifest = certified(request, model, artifact, manifest, runner)
            return gated(request, model, artifact, manifest, runner, samples, progress)
        finally:
            runner.close()


def _loaded(request: ModelRequest, runtime: Backend, artifact: Artifact) -> Runner:
    options = LoadOptions(
        allow_unsafe_ops=request.allow_unsafe_ops,
        allow_pickle=request.allow_pickle,
        trusted_types=",".join(request.trusted_types) or None,
        allow_version_mismatch=request.allow_version_mismatch,
    )
    try:
        return runtime.load(artifact, options)
    except ModelLoadFailed as error:
        raise ExportError(
            f"the exported {artifact.model} does not load: "
            + error.message.replace(f"{artifact.path}/", ""),
            hint=_NOT_LOADED,
        ) from error


def _with_rows(manifest: Manifest, runner: Runner) -> Manifest:
    """Return the manifest with whether the rows of the model are independent."""
    from mlserve.probe import check_rows

    rows = check_rows(manifest.signatures, runner.run)
    if rows is None:
        return manifest
    return replace(
        manifest,
        facts={**manifest.facts, "rows": rows.fact},
        has_dependent_rows=rows.are_dependent,
    )


_NOT_LOADED = "load the model with the library that wrote it, to see whether it is whole"


def _publish(incoming: Incoming, version: int | None) -> Path:
    while True:
        base_path = incoming.path.parent
        number = max(present_versions(base_path), default=0) + 1 if version is None else version
        try:
            return incoming.publish(number)
        except VersionExists as error:
            # Another export took this number meanwhile. Unless the user asked for it, try the next
            # one.
            if version is not None:
                raise version_taken(base_path / str(version)) from error


def manifest_of(
    model: Model,
    backend: str,
    signatures: Sequence[Signature],
    libraries: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Return the manifest of a model that `backend` has exported with these signatures."""
    common = Manifest(
        mlserve=__version__,
        backend=backend,
        model=model.name,
        source=model.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        weights_digest=model.weights_digest,
        labels_digest=None,
        has_random_weights=model.has_random_weights,
        pipeline=None,
        signatures=tuple(signatures),
        facts=model.facts,
        libraries=libraries,
        details=model.details,
    )
    if isinstance(model, Classifier):
        labels = digest_of(labels_text(model.labels))
        return replace(common, pipeline=model.pipeline, labels_digest=labels)
    return replace(
        common,
        columns=model.columns,
        libraries={**libraries, **model.libraries},
    )


def _libraries(*parts: Backend | ModelSource) -> dict[str, str]:
    """Return the versions of the distributions whose modules the parts need."""
    modules = {name.partition(".")[0] for part in parts for name in part.requires}
    found = packages_distributions()
    names = {found[module][0] for module in modules if module in found}
    return {name: distribution_version(name) for name in sorted(names)}


def _require_weights(request: ModelRequest) -> None:
    path = request.weights_path
    if path is not None and not (is_remote(str(request.weights)) or path.exists()):
        raise UsageError(
            f"--weights {path}: there is no such file", hint="check the path and the spelling"
        )


def _require_possible(
    request: ModelRequest, runtime: Backend, into: Store, version: int | None
) -> None:
    """Raise what can be known of an export without the model: a cheap check."""
    require_precision(request, runtime)
    _require_buildable(_asked_features(request), runtime)
    into.require_free(runtime.name, request.model, version)
    _require_installed(f"the backend {runtime.name}", runtime)


def _require_fetched(request: ModelRequest, source: ModelSource) -> None:
    """Raise ExportError if `--offline` was given and the source itself would fetch the model."""
    if not request.offline or request.weights is not None:
        return
    url = source.download(request.model)
    if url is not None:
        raise not_cached(url)


def _require_used(request: ModelRequest, source: ModelSource) -> None:
    """Raise UsageError for options that the source would ignore, naming the first."""
    unused = [
        option
        for field, option in SOME_USE.items()
        if getattr(request, field) and field not in source.options
    ]
    if unused:
        raise UsageError(
            f"{unused[0]} has no effect on {request.model}, which the model source {source.name} "
            "opens",
            hint=f"leave {' and '.join(unused)} out",
        )


def _asked_features(request: ModelRequest) -> frozenset[Feature]:
    """Return what the user's options need of a backend, as far as it is known without the model."""
    height, width = request.open_size
    size = height or _ANY_SIDE, width or _ANY_SIDE
    return features_of(request.exif, request.pixels.preprocessing(size, RGB))


_ANY_SIDE = 224


def _require_buildable(features: Collection[Feature], runtime: Backend) -> None:
    """Raise UsageError for a feature that the backend's image pipelines do not have."""
    for feature in Feature:
        why = runtime.lacks(feature) if feature in features else None
        if why is not None:
            raise UsageError(
                f"the backend {runtime.name} cannot {feature}: {why}",
                hint=_WITHOUT.get(feature, "export for --backend onnxruntime"),
            )


_WITHOUT = {
    Feature.EXIF: "export for --backend onnxruntime, or leave --exif out and turn the images "
    "before they are sent"
}


def _source_for(request: ModelRequest) -> ModelSource:
    reports = plugins.survey()
    sources = [source for report in reports for source in report.sources]
    for source in sources:
        if source.accepts(request):
            return source
    raise _no_source(request, sources, [report.error for report in reports if report.error])


def _no_source(
    request: ModelRequest, sources: Sequence[ModelSource], broken: Sequence[PluginError]
) -> MlserveError:
    if not sources:
        why = "; ".join(error.message for error in broken) or "no plugin with models is installed"
        return PluginError(f"no model source: {why}", hint=install_command(f"{MODELS}[all]"))
    known = ", ".join(sorted({name for source in sources for name in source.models})) or "none"
    asked = f"the model {request.model!r}"
    if request.weights is not None:
        asked += f" with the weights {request.weights!r}"
    also = "".join(f"; {error.message}" for error in broken)
    return NotFound(
        f"no model source knows {asked} (models known by name: {known}){also}",
        hint=_known_or_own(request, sources),
    )


def _known_or_own(request: ModelRequest, sources: Sequence[ModelSource]) -> str:
    kinds = ", ".join(kind for source in sources for kind in source.file_types)
    kinds = kinds or "none, as no installed plugin opens files"
    if request.weights_path is not None:
        return f"give the weights of your own model in a file of a known kind: {kinds}"
    known = (name for source in sources for name in source.models)
    meant = did_you_mean(request.model, known, "--model ")
    return (
        f"{meant}choose one with --model, or give your own model with --weights FILE ({kinds}) "
        "and --labels FILE"
    )


def _require_installed(what: str, part: Backend | ModelSource) -> None:
    absent = plugins.absent_modules(part.requires)
    if absent:
        raise not_installed(what, *absent, hint=part.install_hint)


@contextmanager
def _library_errors_named(what: str, part: Backend | ModelSource) -> Iterator[None]:
    """Convert the errors of libraries inside the block into ours.

    An ImportError becomes a PluginError that distinguishes absent from broken; any other becomes an
    ExportError.
    """
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name in part.requires:
            raise not_installed(what, error.name, hint=part.install_hint) from error
        raise PluginError(
            f"{what} is installed but broken: {reason_of(error)}",
            hint=f"reinstall what it needs: {part.install_hint}",
        ) from error
    except (MlserveError, OSError):
        raise
    except Exception as error:
        if _is_ours(error):
            raise
        raise ExportError(
            f"{what} failed: {reason_of(error)}",
            hint="check that the files are whole, and load them with the library that wrote them",
        ) from error


def _is_ours(error: Exception) -> bool:
    """Return whether our code raised it, which is a bug; a library's errors are about the model."""
    names = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    return names[-1].startswith("mlserve")
