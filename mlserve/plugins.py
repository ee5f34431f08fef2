"""Find plugins without importing them, and load one by name.

A plugin is an entry point of the group `mlserve`. `load_setuptools_entrypoints` without a name
would import every plugin, and one broken plugin would break all others; so names come from package
metadata, and only the requested plugin is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import pluggy

from mlserve.backend import Backend
from mlserve.distributions import SERVE_EXTRA, absent_packages, install_command, is_ours
from mlserve.errors import NotFound, PluginError, reason_of, shortened
from mlserve.hints import did_you_mean
from mlserve.launcher import Launcher
from mlserve.settings import OWN_LAUNCHERS
from mlserve.sources import ModelSource

GROUP = "mlserve"
"""The entry-point group, and the project name of the pluggy markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def mlserve_backend() -> type[Backend]:  # type: ignore[empty-body]
    """Return the backend of this plugin. Called once, when the backend is first used.

    Its name must equal the entry point's name, which is the value of `--backend`.
    """


@hookspec
def mlserve_model_sources() -> Iterable[ModelSource]:  # type: ignore[empty-body]
    """Return this plugin's model sources. Called on export and when sources are listed."""


@hookspec
def mlserve_launcher() -> type[Launcher]:  # type: ignore[empty-body]
    """Return the launcher of this plugin. Called once, when the launcher is first used.

    Its name must equal the entry point's name, which is the value of `--launcher`.
    """


T = TypeVar("T")
_CHOOSE = "choose one with --backend; `mlserve plugins` shows what there is"
_CHOOSE_LAUNCHER = "choose one with --launcher; `mlserve plugins` shows what there is"

KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "models": "mlserve-models[all]",
        "onnxruntime": "mlserve-onnxruntime[export]",
        "openvino": "mlserve-openvino[export]",
        "ray": "mlserve-ray",
        "sklearn": "mlserve-sklearn[serve]",
        "tfserving": "mlserve-tfserving[export]",
        "torch": "mlserve-torch[export]",
    }
)
"""mlserve's own plugins by name: the pip requirement for both exporting and serving."""
NO_BACKENDS = frozenset({"models", "ray"})
"""Those that are not backends: model sources only, and a launcher."""
_LAUNCHERS = frozenset({"ray"})
"""Those that are launchers."""


class DependencyMissing(PluginError):
    """An installed plugin lacks a package that it needs; `modules` names what is absent."""

    def __init__(
        self, message: str, *, hint: str | None = None, modules: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.modules = tuple(modules)


def absent_modules(modules: Sequence[str]) -> list[str]:
    """Return the modules whose package is not installed, without importing any."""
    return [name for name in modules if not _is_installed(name.partition(".")[0])]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return True  # already imported, but without a spec


def absent_to_serve(kind: type[Backend]) -> list[str]:
    """Return what a backend needs to run a model and is not installed, without importing anything.

    These are the packages of the extra `serve` of its distribution, else the modules in `requires`.
    """
    point = installed().get(kind.name)
    packages = []
    if point is not None and point.dist is not None:
        packages = absent_packages(point.dist.name, SERVE_EXTRA)
    return packages or absent_modules(kind.requires)


def installed() -> dict[str, EntryPoint]:
    """Return the plugins' entry points by name, without importing any.

    If two distributions use the same name, the first is returned; `load` refuses both.
    """
    return {name: points[0] for name, points in _points().items()}


@cache
def load(name: str) -> pluggy.PluginManager:
    """Return a plugin manager holding only the plugin of that name.

    Raises NotFound for an unknown name, and PluginError for a plugin that does not load or whose
    name is used by two distributions.
    """
    point = _point(name)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(sys.modules[__name__])

    def register() -> None:
        manager.register(point.load(), name=name)
        manager.check_pending()

    _call(point, "does not load", register)
    if not manager.get_hookcallers(manager.get_plugin(name)):
        raise _broken(point, "implements no hook of mlserve")
    return manager


def backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises NotFound for an unknown name, and PluginError for a broken plugin or one whose backend's
    name differs from its entry point's.
    """
    kind = _backend_type(name)
    if kind is None:
        raise NotFound(f"{_named(_point(name))} provides no backend", hint=_CHOOSE)
    return _call(_point(name), "provides a backend that cannot be created", kind)


@cache
def launcher(name: str) -> Launcher:
    """Return the launcher of that plugin.

    Raises NotFound for an unknown name, and PluginError for a broken plugin or one whose launcher's
    name differs from its entry point's.
    """
    if name not in _points():
        raise _unknown_launcher(name)
    kind = _launcher_type(name)
    if kind is None:
        raise NotFound(f"{_named(_point(name))} provides no launcher", hint=_CHOOSE_LAUNCHER)
    return _call(_point(name), "provides a launcher that cannot be created", kind)


def fault_of(name: str, what: str) -> PluginError:
    """Return the error for a fault of that plugin, which a call of its own code has shown."""
    return _broken(_point(name), what)


def launcher_names() -> list[str]:
    """Return the values of `--launcher`: mlserve's own launchers, and those of plugins."""
    return [*OWN_LAUNCHERS, *(report.name for report in survey() if report.launcher)]


def backend_names() -> list[str]:
    """Return the names of installed backends, including broken ones."""
    found = (report for report in survey() if report.backend or report.error)
    return [report.name for report in found if report.name not in NO_BACKENDS]


def model_sources() -> list[ModelSource]:
    """Return the model sources of every plugin that loads.

    Broken plugins are skipped; `survey` names them.
    """
    return [source for report in survey() for source in report.sources]


@dataclass(frozen=True, slots=True)
class PluginReport:
    """An installed plugin: what it provides, or the error it fails with."""

    name: str
    distribution: str
    backend: type[Backend] | None = None
    launcher: type[Launcher] | None = None
    sources: tuple[ModelSource, ...] = ()
    error: PluginError | None = None


def survey() -> list[PluginReport]:
    """Report on each installed plugin, by name. Imports all plugins, but no runtime."""
    return [_report(name) for name in sorted(_points())]


def _report(name: str) -> PluginReport:
    distribution = " and ".join(sorted({_distribution(point) for point in _points()[name]}))
    try:
        sources = _sources(name)
        has_backend = _backend_type(name) is not None
        kind = type(backend(name)) if has_backend else None
        starts = type(launcher(name)) if _launcher_type(name) is not None else None
    except PluginError as error:
        return PluginReport(name, distribution, error=error)
    return PluginReport(name, distribution, kind, starts, sources)


def _backend_type(name: str) -> type[Backend] | None:
    """Return the plugin's backend class, checked; None if it has none."""
    return _type_of(name, "backend", Backend)  # type: ignore[type-abstract]


def _launcher_type(name: str) -> type[Launcher] | None:
    """Return the plugin's launcher class, checked; None if it has none."""
    kind = _type_of(name, "launcher", Launcher)  # type: ignore[type-abstract]
    if kind is not None and name in OWN_LAUNCHERS:
        raise _broken(_point(name), f"gives a launcher named {name!r}, as one of mlserve's own is")
    return kind


def _type_of(name: str, what: str, base: type[T]) -> type[T] | None:
    """Return the class that the hook `mlserve_<what>` gives, checked; None if there is no hook."""
    point, hook = _point(name), getattr(load(name).hook, f"mlserve_{what}")
    kinds: list[object] = _call(point, f"fails in mlserve_{what}", hook)
    if not kinds:
        return None
    kind = kinds[0]
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise _broken(
            point, f"gives {kind!r} as its {what}, which is not a subclass of {base.__name__}"
        )
    if getattr(kind, "name", None) != name:
        raise _broken(
            point,
            f"gives a {what} named {getattr(kind, 'name', None)!r}",
            hint=f"the entry point and the {what} must have the same name",
        )
    return kind


def _sources(name: str) -> tuple[ModelSource, ...]:
    point, hook = _point(name), load(name).hook

    def collect() -> tuple[ModelSource, ...]:
        return tuple(source for group in hook.mlserve_model_sources() for source in group)

    found = _call(point, "fails in mlserve_model_sources", collect)
    for source in found:
        if not isinstance(source, ModelSource):
            raise _broken(point, f"gives {source!r} as a model source, which is not a ModelSource")
    return found


def _points() -> dict[str, list[EntryPoint]]:
    """Return the entry points by name; several if several distributions use the name."""
    return _points_in(tuple((folder, _changed_at(folder)) for folder in sys.path))


def _changed_at(folder: str) -> int | None:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=1)
def _points_in(_folders: tuple[tuple[str, int | None], ...]) -> dict[str, list[EntryPoint]]:
    """Return the entry points of what these folders of `sys.path` hold, as changed at that time.

    One look reads the metadata of every installed distribution, and an export would take fifty.
    """
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points = found.setdefault(point.name, [])
        if _distribution(point) not in map(_distribution, points):
            points.append(point)
    return found


def _point(name: str) -> EntryPoint:
    points = _points().get(name)
    if not points:
        raise _unknown(name)
    if len(points) > 1:
        names = " and ".join(sorted(_distribution(point) for point in points))
        raise PluginError(
            f"the plugin name {name!r} is used by two distributions: {names}",
            hint="uninstall one of the two",
        )
    return points[0]


def _call(point: EntryPoint, what_fails: str, call: Callable[[], T]) -> T:
    """Return what `call`, code of the plugin, returns. Any exception becomes a PluginError."""
    try:
        return call()
    except PluginError:
        raise
    except ModuleNotFoundError as error:
        if error.name and not _is_part_of(error.name, point):
            raise DependencyMissing(
                f"{_named(point)} needs the module {error.name!r}, which is not installed",
                hint=f"{_install(error.name.partition('.')[0])}, or {_distribution(point)} again",
                modules=[error.name],
            ) from error
        raise _broken(point, f"{what_fails}: {reason_of(error)}") from error
    except (Exception, SystemExit) as error:  # anything a plugin raises is its own fault
        raise _broken(point, f"{what_fails}: {reason_of(error)}") from error


def _install(module: str) -> str:
    name = module.replace("_", "-")
    return install_command(name) if is_ours(name) else f"pip install {module}"


def _is_part_of(module: str, point: EntryPoint) -> bool:
    return module.partition(".")[0] == point.module.partition(".")[0]


def _broken(point: EntryPoint, what: str, *, hint: str | None = None) -> PluginError:
    fix = f"reinstall or uninstall {_distribution(point)}; `mlserve plugins` shows them all"
    return PluginError(f"{_named(point)} {what}", hint=hint or fix)


def _named(point: EntryPoint) -> str:
    return f"the plugin {point.name!r} of {_distribution(point)}"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _unknown(name: str) -> NotFound:
    choices = ", ".join(backend_names()) or "none"
    if name in KNOWN.keys() - NO_BACKENDS:
        return NotFound(
            f"the backend {name!r} is not installed (installed: {choices})",
            hint=f"{install_command(KNOWN[name])}, or {_CHOOSE}",
        )
    meant = did_you_mean(name, backend_names(), "--backend ")
    return NotFound(f"there is no backend {name!r} (installed: {choices})", hint=meant + _CHOOSE)


def _unknown_launcher(name: str) -> NotFound:
    names = launcher_names()
    if name in _LAUNCHERS:
        return NotFound(
            f"the launcher {name!r} is not installed (there are {', '.join(names)})",
            hint=f"{install_command(KNOWN[name])}, or {_CHOOSE_LAUNCHER}",
        )
    meant = did_you_mean(name, {*names, *_LAUNCHERS}, "--launcher ")
    return NotFound(
        f"there is no launcher {shortened(name)!r} (there are {', '.join(names)})",
        hint=meant + _CHOOSE_LAUNCHER,
    )
