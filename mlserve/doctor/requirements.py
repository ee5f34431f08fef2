"""Whether the installed packages fit each other: by what they declare, and by what is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlserve import plugins
from mlserve.distributions import CORE, install_command, is_ours

_LOWER_BOUNDS = (">=", ">", "~=", "==")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A package that is not what another one needs. `found` is None when it is not installed."""

    needed_by: str
    requirement: str
    package: str
    found: str | None
    is_too_old: bool

    @property
    def text(self) -> str:
        there = f"{self.package} {self.found} is installed" if self.found else "it is not installed"
        return f"{self.needed_by} needs {self.requirement}, and {there}"

    @property
    def fix(self) -> str:
        if is_ours(self.package):
            return install_command(self.package)
        return f"pip install '{self.requirement}'"


@dataclass(frozen=True, slots=True)
class KnownConflict:
    """Two packages that do not work together although neither of them declares it."""

    one: str
    other: str
    text: str
    fix: str


_KNOWN = (
    KnownConflict(
        "tf2onnx<1.17",
        "numpy>=2",
        "tf2onnx before 1.17 uses names that numpy 2 has no more: exporting for onnxruntime fails",
        "pip install 'tf2onnx>=1.17'",
    ),
    KnownConflict(
        "tensorflow<2.18",
        "numpy>=2",
        "tensorflow before 2.18 was built for numpy 1: importing it fails",
        "pip install 'tensorflow>=2.18'",
    ),
    KnownConflict(
        "tensorflow-hub<0.17",
        "setuptools>=81",
        "tensorflow-hub 0.16 imports pkg_resources, which later setuptools warn of or lack",
        "pip install 'setuptools<81'",
    ),
    KnownConflict(
        "onnxruntime",
        "onnxruntime-gpu",
        "both put their files into the same folder: which one is imported is chance",
        "pip uninstall onnxruntime onnxruntime-gpu, then install the one that you want",
    ),
    KnownConflict(
        "tensorflow",
        "tensorflow-cpu",
        "both put their files into the same folder: which one is imported is chance",
        "pip uninstall tensorflow tensorflow-cpu, then install the one that you want",
    ),
)


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, from its metadata; None when it is not there."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def known_conflicts() -> list[KnownConflict]:
    """Those of the known conflicts that are installed here."""
    return [known for known in _KNOWN if _is_there(known.one) and _is_there(known.other)]


def declared_conflicts() -> list[Conflict]:
    """What mlserve's distributions and all that they need declare and do not get.

    Of an extra, which nobody records as installed, only what is there has to fit.
    """
    found: dict[tuple[str, str], Conflict] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    read = cache(_read)  # many need the same package, and reading what it says of itself is slow
    own = _own()
    ours = {owner.name for owner in own}
    open_ends = [(owner, _extras(owner)) for owner in own]
    while open_ends:
        owner, extras = open_ends.pop()
        if (owner.name, extras) in seen:
            continue
        seen.add((owner.name, extras))
        for requirement, is_optional in _requirements(owner, extras, is_own=owner.name in ours):
            needed, version = read(requirement.name)
            if needed is not None:
                open_ends.append((needed, frozenset(requirement.extras)))
            conflict = _conflict(owner.name, requirement, version)
            if conflict is not None and not (is_optional and needed is None):
                found[owner.name, requirement.name] = conflict
    return sorted(found.values(), key=lambda conflict: (conflict.needed_by, conflict.package))


def _read(name: str) -> tuple[Distribution | None, str | None]:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None, None
    return found, found.version


def _conflict(owner: str, requirement: Requirement, version: str | None) -> Conflict | None:
    if version is not None and _fits(requirement.specifier, version):
        return None
    is_too_old = version is None or _is_below(requirement.specifier, version)
    return Conflict(owner, _plain(requirement), requirement.name, version, is_too_old)


def _own() -> list[Distribution]:
    """The distribution of mlserve and those of its plugins."""
    names = {CORE} | {p.dist.name for p in plugins.installed().values() if p.dist is not None}
    return [distribution(name) for name in sorted(names)]


def _extras(owner: Distribution) -> frozenset[str]:
    return frozenset(owner.metadata.get_all("Provides-Extra") or ())


def _requirements(
    owner: Distribution, extras: frozenset[str], *, is_own: bool
) -> Iterator[tuple[Requirement, bool]]:
    """What it needs, and whether that is optional: wanted by an extra of one of ours."""
    for text in owner.requires or ():
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == canonicalize_name(owner.name):
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, False
        elif any(marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement, is_own


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _is_there(text: str) -> bool:
    requirement = Requirement(text)
    version = installed_version(requirement.name)
    return version is not None and _fits(requirement.specifier, version)


def _fits(specifier: SpecifierSet, version: str) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # it cannot be told


def _is_below(specifier: SpecifierSet, version: str) -> bool:
    return any(
        one.operator in _LOWER_BOUNDS and Version(version) < Version(one.version.rstrip(".*"))
        for one in specifier
    )
