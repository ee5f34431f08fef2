"""Choose a backend by a model's files or its framework, and check that it can serve here.

Only the classes of installed plugins are inspected: no runtime is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlserve import plugins
from mlserve.artifact import Artifact
from mlserve.backend import Backend
from mlserve.distributions import SERVER, SERVER_HINT, absent_packages
from mlserve.errors import NotFound, PluginError, UsageError, either
from mlserve.hints import did_you_mean
from mlserve.load_options import LoadOptions
from mlserve.options import flag_of
from mlserve.plugins import absent_to_serve
from mlserve.settings import DEFAULT_BACKEND
from mlserve.sources import DEFAULT_MODEL, ModelRequest, ModelSource


def backend_of_files(model: Artifact, asked: str | None) -> str:
    """Return the backend that a version's files are for; `asked` is the user's own choice.

    Raises UsageError when the files are for another backend than `asked` or for several, or cannot
    be read, and NotFound when no installed backend recognises them.
    """
    fits = _backends_of(model)
    if asked is None:
        return _only(model.path, fits)
    if fits and asked not in fits:
        names = either([repr(name) for name in fits])
        raise UsageError(
            f"{model.path} holds a model for the backend {names}, not for {asked!r}",
            hint=f"leave --backend out, or give --backend {fits[0]}",
        )
    return asked


def backend_for(request: ModelRequest, source: ModelSource, asked: str | None) -> str:
    """Return the backend to export a model of `source` for; `asked` is the user's own choice.

    If `asked` is None, that is the default if it takes the model, else the framework's own, else
    the one in the source's own plugin, else the only one that does.
    Raises UsageError when `asked` does not take it, or when several others do.
    """
    fits = _exporting(source.framework)
    if asked is not None:
        takes = plugins.backend(asked).frameworks
        if source.framework not in takes:
            what = request.model if request.weights_path is None else request.weights_path.name
            raise UsageError(
                f"the framework of {what} is {source.framework}, which the backend {asked!r} does "
                f"not take (it takes {' and '.join(takes)})",
                hint=f"choose --backend {either(fits)}" if fits else _INSTALL,
            )
        return asked
    if not fits:
        raise PluginError(
            f"no installed backend takes models of the framework {source.framework}",
            hint=_INSTALL,
        )
    for usual in (DEFAULT_BACKEND, source.framework, _plugin_of(source)):
        if usual in fits:
            return usual
    if len(fits) > 1:
        raise UsageError(
            f"{len(fits)} backends take this model: {', '.join(fits)}",
            hint="choose one with --backend",
        )
    return fits[0]


def require_regarded(backend: Backend, options: LoadOptions) -> None:
    """Raise UsageError for a load option that the backend ignores."""
    for name in options.changed:
        if not backend.regards(name):
            flag = flag_of(name)
            raise UsageError(
                f"the backend {backend.name!r} has no {flag}", hint=f"leave {flag} out"
            )


def require_runtime(backend: Backend) -> None:
    """Raise PluginError if a package is missing that mlserve's own server of it needs."""
    for absent, hint in (
        (absent_packages(*SERVER), SERVER_HINT),
        (absent_to_serve(type(backend)), backend.install_hint),
    ):
        if absent:
            raise PluginError(
                f"the backend {backend.name!r} cannot serve: {', '.join(absent)} not installed",
                hint=hint,
            )


def way_to_export(backend: str | None, model: str | None) -> str:
    """Return an export command for a hint: one that works with what is installed.

    A model that no model source knows by name is the user's own, so the command needs its files.
    """
    sources = {name: source for source in plugins.model_sources() for name in source.models}
    meant = model or (DEFAULT_MODEL if DEFAULT_MODEL in sources else next(iter(sources), None))
    source = sources.get(meant or "")
    if source is None:
        option = f" --backend {backend}" if backend else ""
        known = did_you_mean(model, sources, "mlserve export --model ") if model else ""
        return (
            f"{known}for your own model: mlserve export{option} --model {model or 'NAME'} "
            "--weights FILE --labels FILE"
        )
    fits = _exporting(source.framework)
    chosen = backend or (DEFAULT_BACKEND if DEFAULT_BACKEND in fits else next(iter(fits), None))
    if chosen not in fits:
        return _INSTALL
    return f"export it: mlserve export --backend {chosen} --model {meant}"


_INSTALL = "`mlserve plugins` shows which backends there are, and how to install them"


def _backends() -> list[type[Backend]]:
    return [report.backend for report in plugins.survey() if report.backend is not None]


def _plugin_of(source: ModelSource) -> str:
    """Return the name of the plugin that provides a source, which its backend has too."""
    reports = plugins.survey()
    own = (r.name for r in reports if any(type(each) is type(source) for each in r.sources))
    return next(own, "")


def _exporting(framework: str) -> list[str]:
    """Return the names of installed backends that export models of that framework."""
    return [backend.name for backend in _backends() if framework in backend.frameworks]


def _backends_of(model: Artifact) -> list[str]:
    """Return the backends that the files are for: by the manifest, else by file names."""
    if model.manifest is not None:
        return [model.manifest.backend]
    try:
        names = [path.name for path in model.path.iterdir() if path.is_file()]
    except OSError as error:
        raise UsageError(
            f"{model.path} cannot be read: {error.strerror or error}",
            hint="make the folder readable for this user",
        ) from error
    return [backend.name for backend in _backends() if any(map(backend.reads, names))]


def _only(folder: Path, fits: Sequence[str]) -> str:
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise UsageError(
            f"{folder} holds files of several backends: {', '.join(fits)}",
            hint="choose one with --backend",
        )
    wanted = "; ".join(f"{b.name}: {' or '.join(b.files)}" for b in _backends() if b.files)
    raise NotFound(
        f"{folder} holds no file that an installed backend reads ({wanted or 'none installed'})",
        hint=f"put the model's files there, or choose with --backend; {_INSTALL}",
    )
