"""The Python packages to install in an image: our own distributions and their dependencies.

A distribution from an index is requested by name and version. One installed from a folder or a file
(a checkout, a wheel) is on no index: its wheel is built or copied here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    PathDistribution,
    distribution,
    distributions,
)
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlserve import plugins
from mlserve.distributions import CORE, absent_packages, requirements_of
from mlserve.errors import BuildFailed

_SERVE = ("serve", "server")
"""The extras that serving needs, in a plugin and in core."""
_IF_HERE = ("signing", "otlp")
"""The extras of core that settings need (`--require-signature`, `--otlp`): in the image if they are
installed here."""
_TIMEOUT = 300.0


Root = tuple[Distribution, frozenset[str]]
"""One of our distributions, with the extras to install."""


@dataclass(frozen=True, slots=True)
class Packages:
    """The input of `pip install` in the image, as lines of requirements files.

    `own` are our distributions; `foreign` are their dependencies, installed first so that the image
    layer is reused when only our code has changed; `constraints` pin all versions installed here.
    """

    own: tuple[str, ...]
    foreign: tuple[str, ...]
    constraints: tuple[str, ...]


def roots_of(backend: str) -> list[Root]:
    """Return our distributions that serve it. Raises BuildFailed for one without metadata."""
    point = plugins.installed()[backend]
    if point.dist is None:
        raise BuildFailed(
            f"the plugin {backend!r} belongs to no installed distribution",
            hint="install it with pip",
        )
    return [_serving(distribution(CORE)), _serving(point.dist)]


def packages_of(roots: list[Root], wheels: Path, inside: str = "/install/wheels") -> Packages:
    """Return what to install; pip sees the folder `wheels` at the path `inside`.

    Requirements are read from the wheels, because the metadata of an installed checkout may be out
    of date. Wheels are named by path, so that none is confused with a third-party package of that
    name.
    """
    there = {canonicalize_name(found.name): (found, file) for file, found in _read_wheels(wheels)}
    extras = {canonicalize_name(found.name): wanted for found, wanted in roots}
    own = [
        f"{inside}/{file}{_in_brackets(extras.get(name, frozenset()))}"
        for name, (_, file) in there.items()
    ]
    own += [
        f"{found.name}{_in_brackets(wanted)}=={found.version}"
        for found, wanted in roots
        if canonicalize_name(found.name) not in there
    ]
    ours = {*there, *extras}
    foreign = {
        str(_plain(requirement))
        for name in ours
        for requirement in requirements_of(
            there[name][0] if name in there else distribution(name), extras.get(name, frozenset())
        )
        if canonicalize_name(requirement.name) not in ours
    }
    return Packages(tuple(own), tuple(sorted(foreign)), tuple(_constraints(ours)))


def _read_wheels(folder: Path) -> Iterator[tuple[str, Distribution]]:
    for wheel in sorted(folder.glob("*.whl")):
        name = "-".join(wheel.name.split("-")[:2])
        yield wheel.name, PathDistribution(zipfile.Path(wheel, f"{name}.dist-info/"))


def write_wheels(roots: list[Root], into: Path, extra: Path | None) -> None:
    """Copy or build the wheels of what is on no index, and add those of the folder `extra`.

    Raises BuildFailed.
    """
    into.mkdir(parents=True, exist_ok=True)
    given = sorted(extra.glob("*.whl")) if extra is not None else []
    for wheel in given:
        shutil.copy(wheel, into)
    there = {canonicalize_name(wheel.name.partition("-")[0]) for wheel in given}
    for found in _local(roots):
        if canonicalize_name(found.name) not in there:
            _write_wheel(found, into)


def _write_wheel(found: Distribution, into: Path) -> None:
    source = _source(found)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    try:
        done = subprocess.run(
            [*command, "--wheel-dir", str(into), source],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        said = ""
        if done.returncode != 0:
            said = done.stderr.strip() or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"it took longer than {_TIMEOUT:g} s"
    if said:
        raise BuildFailed(
            f"the wheel of {found.name} cannot be made from {source}: {said}",
            hint="make the wheels yourself, and give their folder with --wheel-dir",
        )


def _local(roots: list[Root]) -> Iterator[Distribution]:
    """Yield our distributions that are on no index: the roots and their dependencies."""
    seen: set[str] = set()
    open_ends = list(roots)
    while open_ends:
        found, extras = open_ends.pop()
        if canonicalize_name(found.name) in seen or not _origin(found):
            continue
        seen.add(canonicalize_name(found.name))
        yield found
        for requirement in requirements_of(found, extras):
            try:
                needed = distribution(requirement.name)
            except PackageNotFoundError:
                continue
            open_ends.append((needed, frozenset(requirement.extras)))


def _serving(found: Distribution) -> Root:
    there = set(found.metadata.get_all("Provides-Extra") or ())
    wanted = set(_SERVE)
    if found.name == CORE:
        wanted |= {extra for extra in _IF_HERE if not absent_packages(CORE, extra)}
    return found, frozenset(there & wanted)


def _in_brackets(extras: frozenset[str]) -> str:
    return f"[{','.join(sorted(extras))}]" if extras else ""


def _plain(requirement: Requirement) -> Requirement:
    requirement.marker = None
    return requirement


def _constraints(ours: Collection[str]) -> Iterator[str]:
    """Pin the versions installed here, except those that are on no index."""
    lines = {
        f"{found.name}=={found.version}"
        for found in distributions()
        if found.name and canonicalize_name(found.name) not in ours and not _origin(found)
    }
    yield from sorted(line for line in lines if "+" not in line)


def _origin(found: Distribution) -> str:
    """Return the URL it was installed from; empty if it came from an index."""
    text = found.read_text("direct_url.json")
    return str(json.loads(text)["url"]) if text else ""


def _source(found: Distribution) -> str:
    """Return pip's source for the wheel: a local folder or file, else the URL as it is."""
    origin = _origin(found)
    parts = urlsplit(origin)
    return url2pathname(unquote(parts.path)) if parts.scheme == "file" else origin
