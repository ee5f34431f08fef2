"""Finds plugins without importing them, and loads one by name.

A plugin is an entry point of the group `mlserve`. `load_setuptools_entrypoints` without a name
would import every plugin, and one broken plugin would take all others down with it; so names come
from package metadata, and only the plugin that is asked for is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

import pluggy

from mlserve import hookspecs
from mlserve.backend import Backend
from mlserve.errors import NotFound, PluginError
from mlserve.sources import ModelSource


def installed() -> dict[str, EntryPoint]:
    """The plugins' entry points by name, none of them imported.

    Raises PluginError when two distributions give the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=hookspecs.GROUP):
        other = found.setdefault(point.name, point)
        if _distribution(other) != _distribution(point):
            raise PluginError(
                f"the plugin name {point.name!r} is given by two distributions: "
                f"{_distribution(other)} and {_distribution(point)}",
                hint="uninstall one of the two",
            )
    return found


@cache
def load(name: str) -> pluggy.PluginManager:
    """A plugin manager holding just the plugin of that name.

    Raises NotFound for an unknown name and PluginError for a plugin that does not load.
    """
    point = installed().get(name)
    if point is None:
        raise _unknown(name)
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(point.load(), name=name)
        manager.check_pending()
    except Exception as error:  # whatever a plugin raises on import is the plugin's fault
        raise PluginError(
            f"the plugin {name!r} of {_distribution(point)} does not load: "
            f"{type(error).__name__}: {error}",
            hint=f"reinstall or uninstall {_distribution(point)}; `mlserve plugins` shows them all",
        ) from error
    return manager


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises NotFound for an unknown name and PluginError for a broken plugin or one whose backend
    has another name than its entry point.
    """
    found: list[type[Backend]] = load(name).hook.mlserve_backend()
    if not found:
        raise _unknown(name)
    if found[0].name != name:
        raise PluginError(
            f"the plugin {name!r} gives a backend named {found[0].name!r}",
            hint="the entry point and the backend must have the same name",
        )
    return found[0]()


def model_sources() -> list[ModelSource]:
    """The model sources of every plugin that loads.

    A broken plugin hurts nobody else: `survey` names it.
    """
    return [source for report in survey() for source in report.sources]


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One installed plugin: what it gives, or the error it fails with."""

    name: str
    distribution: str
    backend: type[Backend] | None = None
    sources: tuple[ModelSource, ...] = ()
    error: PluginError | None = None


def survey() -> list[PluginReport]:
    """A report on each installed plugin, by name. Imports them all; no runtime is imported."""
    return list(_survey())


def _survey() -> Iterator[PluginReport]:
    for name, point in sorted(installed().items()):
        distribution = _distribution(point)
        try:
            hook = load(name).hook
            sources = tuple(source for group in hook.mlserve_model_sources() for source in group)
            has_backend = bool(hook.mlserve_backend())
            loaded = type(backend(name)) if has_backend else None
        except PluginError as error:
            yield PluginReport(name, distribution, error=error)
        else:
            yield PluginReport(name, distribution, loaded, sources)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _unknown(name: str) -> NotFound:
    choices = ", ".join(sorted(installed())) or "none is installed"
    return NotFound(
        f"there is no backend {name!r} (installed: {choices})",
        hint=f"pip install mlserve-{name}, or choose one with --backend",
    )
