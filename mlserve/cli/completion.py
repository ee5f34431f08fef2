"""What the shell offers for an option when the user presses Tab.

`mlserve --install-completion` sets the shell up. Each function returns the values that begin with
what has been typed; one that cannot find them out returns none, as a shell has no place for errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlserve.errors import MlserveError

if TYPE_CHECKING:
    from mlserve.launch.records import ServerRecord
    from mlserve.store import Store

Complete = Callable[[typer.Context, str], list[str]]


def _completing(values: Callable[[typer.Context], Iterable[str]]) -> Complete:
    """Turn a function of all values into one that Typer calls with the beginning of one."""

    @wraps(values)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return sorted({value for value in values(ctx) if value.startswith(incomplete)})
        except (MlserveError, OSError):
            return []

    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}  # Typer goes by these
    del complete.__wrapped__  # and would look behind the wrapper
    return complete


@_completing
def backends(_ctx: typer.Context) -> Iterable[str]:
    """Return the installed backends."""
    from mlserve.plugins import NO_BACKENDS, installed

    return installed().keys() - NO_BACKENDS


@_completing
def launchers(_ctx: typer.Context) -> Iterable[str]:
    """Return mlserve's own launchers, and those of plugins."""
    from mlserve.plugins import launcher_names

    return launcher_names()


@_completing
def models(ctx: typer.Context) -> Iterable[str]:
    """Return the exported models, and those of running servers; of the chosen backend, if any."""
    wanted = _given(ctx, "backend")
    served = [(each.backend, each.model) for r in _records() for each in r.serving.models]
    return [model for of, model in (*_store(ctx).exported(), *served) if _fits(of, wanted)]


@_completing
def versions(ctx: typer.Context) -> Iterable[str]:
    """Return the versions in the store, of the chosen backend and model, if any."""
    return _versions(ctx)


@_completing
def versions_or_all(ctx: typer.Context) -> Iterable[str]:
    """Return the same, and `all`, for commands that serve any number of versions."""
    return _versions(ctx) | {"all"}


def _versions(ctx: typer.Context) -> set[str]:
    from mlserve.store import present_versions

    store = _store(ctx)
    wanted = [_given(ctx, name) for name in ("backend", "model")]
    return {
        str(version)
        for pair in store.exported()
        if all(map(_fits, pair, wanted))
        for version in present_versions(store.base_path(*pair))
    }


@_completing
def servers(_ctx: typer.Context) -> Iterable[str]:
    """Return the names of the servers that `mlserve up` started."""
    return [record.name for record in _records()]


@_completing
def logged(_ctx: typer.Context) -> Iterable[str]:
    """Return the names of the servers whose logs are there, also of those that have ended."""
    from mlserve.launch.logs import names

    return names() + [record.name for record in _records()]


@_completing
def described(_ctx: typer.Context) -> Iterable[str]:
    """Return the names of the servers that the configuration file describes."""
    from mlserve.config.document import first_of
    from mlserve.config.locate import VARIABLE, candidates
    from mlserve.config.table import SERVERS

    given = os.environ.get(VARIABLE)
    document = first_of(candidates(given), are_found=given is None)
    servers = {} if document is None else document.table.get(SERVERS, {})
    return servers if isinstance(servers, dict) else ()


def _given(ctx: typer.Context, name: str) -> list[str]:
    """Return the values of an option so far: any number of them, as some can be repeated."""
    value = ctx.params.get(name)
    return [value] if isinstance(value, str) else list(value or ())


def _fits(name: str, wanted: list[str]) -> bool:
    return not wanted or name in wanted


def _store(ctx: typer.Context) -> Store:
    from mlserve.store import Store

    given = ctx.params.get("store")
    return Store(None if given is None else Path(given))


def _records() -> list[ServerRecord]:
    from mlserve.launch.records import read_records

    return read_records(lambda _message: None)
