"""What a distribution of ours needs, as its package metadata say it, and what of that is absent."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlserve.distributions import CORE, install_command

SERVER = (CORE, "server")
"""The distribution and the extra that mlserve's own server needs."""
SERVER_HINT = install_command(f"{CORE}[server]")
SERVE_EXTRA = "serve"
"""The extra of a plugin's distribution with what its backend needs to load and run a model."""


def absent_packages(owner: str, extra: str) -> list[str]:
    """The packages that `owner[extra]` needs and that are not installed, by name.

    A package is there, too, when another distribution brings the module of its name:
    `onnxruntime-gpu` is as good as `onnxruntime`. Raises PackageNotFoundError for the owner.
    """
    found = {requirement.name: None for requirement in _needed(owner, frozenset((extra,)), set())}
    return sorted(name for name in found if not _is_there(name))


def _needed(owner: str, extras: frozenset[str], seen: set[str]) -> Iterator[Requirement]:
    """What it needs, and what the extras need that it asks other distributions for."""
    seen.add(canonicalize_name(owner))
    for text in distribution(owner).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": x}) for x in ("", *extras)):
            continue
        yield requirement
        if requirement.extras and canonicalize_name(requirement.name) not in seen:
            try:
                yield from _needed(requirement.name, frozenset(requirement.extras), seen)
            except PackageNotFoundError:
                continue  # it was told of itself


def _is_there(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return importlib.util.find_spec(canonicalize_name(name).replace("-", "_")) is not None
    return True
