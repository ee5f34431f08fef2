"""Choose what to serve: a folder of version folders, or a matching exported model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact, without_manifest
from mlserve.backend_choice import (
    backend_of_files,
    require_regarded,
    require_runtime,
    way_to_export,
)
from mlserve.config.servers import MODELS, ModelConfig, ServerConfig
from mlserve.config.table import SERVERS
from mlserve.errors import MlserveError, NotFound, UsageError
from mlserve.hints import nearest
from mlserve.ladder.choice import chosen_ladder
from mlserve.load_options import LoadOptions
from mlserve.paths import expanded
from mlserve.pin import pin_or_none, read_pin, unpin_hint
from mlserve.served_model import ServedModel
from mlserve.settings import DEFAULT_BACKEND
from mlserve.store import Store, VersionPolicy, check_name, present_versions


def choose(
    backend: str | None,
    model: str | None,
    path: Path | None,
    versions: VersionPolicy,
    store: Path | None = None,
) -> ServedModel:
    """Return the model to serve: the folder `path`, or the one matching model in `store`.

    The files in `path` tell the backend. `store` None is the user's own. Raises NotFound if nothing
    matches, UsageError if several models match or the backend is wrong.
    """
    if path is not None and store is not None:
        raise UsageError(
            "--path names a model's folder and --store a folder of exported models",
            hint="give only one of the two",
        )
    if path is not None:
        base = expanded(path).absolute()
        expected = _expected(base, versions)
        newest = Artifact.open(base, model or base.name, expected[-1])
        chosen = backend_of_files(newest, backend)
        return _chosen(chosen, model or base.name, base, versions)
    there = Store(store)
    backend, model = _exported_choice(backend, model, there)
    return _chosen(backend, model, there.base_path(backend, model), versions)


def choose_ladder(
    options: LoadOptions,
    backend: str | None,
    model: str | None,
    path: Path | None,
    versions: VersionPolicy,
    store: Path | None = None,
) -> ServedModel:
    """Return the model to serve on the ladder that `options` name, with every rung's version.

    Raises what `choose` and `chosen_ladder` raise, and UsageError for `path` and `versions`, which
    a ladder does not take.
    """
    for flag, is_given in (("--path", path), ("--version", not versions.follows_latest)):
        if is_given:
            raise UsageError(
                f"{flag} does not go with --ladder, whose rungs are exported versions",
                hint="name the versions in it: --ladder BACKEND/MODEL@VERSION,...",
            )
    there = Store(store)
    top, named = chosen_ladder(options, backend, model, there)
    only = VersionPolicy((top.version,))
    base = there.base_path(top.backend, top.model)
    return replace(_chosen(top.backend, top.model, base, only), options=named)


def configured_models(config: ServerConfig) -> tuple[ServedModel, ...]:
    """Return the models of a server in a configuration file, once it is sure that each can load.

    Raises what `choose` raises, UsageError for a load option that the backend has not, and
    PluginError for a missing package, each with the place in the file.
    """
    return tuple(_configured(config, model) for model in config.models)


def _configured(config: ServerConfig, model: ModelConfig) -> ServedModel:
    try:
        name = model.name if model.path is not None else model.model
        choice = model.backend, name, model.path, model.versions, model.store
        options = model.options
        if options.ladder is None:
            chosen = choose(*choice)
        else:
            chosen = choose_ladder(options, *choice)
            options = chosen.options
        backend = plugins.backend(chosen.backend)
        require_regarded(backend, options)
        require_runtime(backend)
    except MlserveError as error:
        if config.source is not None:
            from mlserve.config.document import read_document  # only to name the place

            keys = (SERVERS, config.name, MODELS, model.name)
            error.message = f"{read_document(config.source).place(keys)}: {error.message}"
        raise
    return replace(chosen, model=model.name, options=options, rollout=model.rollout)


def by_number(model: ServedModel) -> ServedModel:
    """Return the model with its pinned version named, for a server that reads no pins."""
    pin = read_pin(model.base_path) if model.versions.follows_latest else None
    return (
        model if pin is None else replace(model, versions=replace(model.versions, versions=(pin,)))
    )


def require_whole(model: ServedModel) -> None:
    """Check the files of the expected versions, for a server that does not check them itself.

    Raises ModelLoadFailed, naming the file.
    """
    for version in model.expected:
        Artifact.open(model.base_path, model.model, version).require_whole()


def about_pin(asked: VersionPolicy, model: ServedModel, *, follows_pin: bool) -> str | None:
    """Return what the user should know of the model's pin, if it has one.

    `asked` are the versions that were named, `model` is what the server will serve, and whether it
    changes with the pin is `follows_pin`.
    """
    pin = pin_or_none(model.base_path)
    if pin is None or asked.versions == (pin,):
        return None
    if not asked.follows_latest:
        return f"version {pin} of {model.model} is pinned; --version takes precedence over it"
    if follows_pin:
        return f"version {pin} of {model.model} is pinned; {unpin_hint(model.base_path)}"
    return (
        f"version {pin} of {model.model} is pinned; this server serves it until it is started "
        "again, whatever is pinned later"
    )


def _exported_choice(backend: str | None, model: str | None, store: Store) -> tuple[str, str]:
    known = store.exported()
    fits = [(b, m) for b, m in known if backend in (None, b) and model in (None, m)]
    of_default = [pair for pair in fits if backend is None and pair[0] == DEFAULT_BACKEND]
    for found in (fits, of_default):
        if len(found) == 1:
            return found[0]
    if fits:
        raise UsageError(
            f"{len(fits)} exported models fit: {_listed(fits)}",
            hint="choose one with --model" + (" and --backend" if backend is None else ""),
        )
    raise _not_exported(backend, model, known)


def _not_exported(
    backend: str | None, model: str | None, known: list[tuple[str, str]]
) -> MlserveError:
    if backend is not None:
        try:
            plugins.backend(backend)
        except MlserveError as error:
            return error  # this is the problem; an export would not help
    what = f"no model {model!r}" if model else "no model"
    where = f" for the backend {backend!r}" if backend else ""
    there = f" (exported: {_listed(known)})" if known else ""
    return NotFound(
        f"{what} has been exported{where}{there}",
        hint=_exported_instead(model, known)
        + way_to_export(backend, model)
        + "; or serve a folder of your own: mlserve up --path DIR",
    )


def _exported_instead(model: str | None, known: list[tuple[str, str]]) -> str:
    """Return the exported model that was probably meant, for a hint."""
    names = {name: backend for backend, name in known}
    meant = nearest(model, names) if model else None
    if meant is None:
        return ""
    return f"did you mean --backend {names[meant]} --model {meant}? else "


def _chosen(backend: str, model: str, base: Path, versions: VersionPolicy) -> ServedModel:
    expected = _expected(base, versions)
    manifests = [Artifact.open(base, model, version).manifest for version in expected]
    for manifest in filter(None, manifests):
        if manifest.pipeline is not None:
            manifest.pipeline.require_known_background()
    return ServedModel(
        check_name("backend", backend),
        check_name("model", model),
        base,
        versions,
        expected=expected,
        has_random_weights=any(m is not None and m.has_random_weights for m in manifests),
        takes_images=all(m is not None and m.pipeline is not None for m in manifests),
    )


def _expected(base: Path, versions: VersionPolicy) -> tuple[int, ...]:
    """Return the versions that must answer; a pin is regarded.

    Raises NotFound if one of them does not exist.
    """
    present = _present(base)
    named = {*versions.versions, *([] if versions.aside is None else [versions.aside])}
    missing = sorted(named - set(present))
    if missing:
        raise NotFound(
            f"{base.name} has no version {missing[0]} (there: {', '.join(map(str, present))})",
            hint=f"the versions are the numbered folders in {base}",
        )
    versions = versions.at(base, present)
    unfinished = () if versions.versions else without_manifest(base, present)
    return versions.wanted([version for version in present if version not in unfinished])


def _present(base: Path) -> tuple[int, ...]:
    try:
        present = present_versions(base) if base.is_dir() else ()
    except OSError as error:
        raise UsageError(
            f"{base} cannot be read: {error.strerror or error}",
            hint="make the folder readable for this user",
        ) from error
    if not present:
        raise _no_versions(base)
    return present


def _no_versions(base: Path) -> NotFound:
    if base.is_file():
        return NotFound(
            f"{base} is a file, not a folder of version folders",
            hint=f"export it: mlserve export --model NAME --weights {base} --labels FILE; or give "
            "the folder that holds DIR/1/",
        )
    if not base.is_dir():
        return NotFound(f"there is no folder {base}", hint="give the folder that holds DIR/1/")
    if base.name.isdigit():
        return NotFound(
            f"{base} has no version folders in it",
            hint=f"it looks like a version itself: --path {base.parent} --version {base.name}",
        )
    return NotFound(
        f"{base} has no version folder such as {base / '1'}",
        hint=f"put the model's files into {base / '1'}: a server takes the numbered folders",
    )


def _listed(pairs: list[tuple[str, str]]) -> str:
    return ", ".join(f"{model} ({backend})" for backend, model in pairs)
