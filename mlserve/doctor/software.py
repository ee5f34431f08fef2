"""Python, the libraries and the plugins: versions, conflicts, and what can be imported."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlserve import __version__, plugins
from mlserve.choosing import DEFAULT_BACKEND
from mlserve.distributions import CORE, install_command, is_ours
from mlserve.doctor.finding import Finding, Status
from mlserve.launch.serving import exported

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
        "tf2onnx before 1.17 uses names that numpy 2 no longer has: exporting for onnxruntime "
        "fails",
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
        "tensorflow-hub 0.16 imports pkg_resources, which later versions of setuptools warn about "
        "or lack",
        "pip install 'setuptools<81'",
    ),
    KnownConflict(
        "onnxruntime",
        "onnxruntime-gpu",
        "both put their files into the same folder: which one is imported is a matter of chance",
        "pip uninstall onnxruntime onnxruntime-gpu, then install the one that you want",
    ),
    KnownConflict(
        "tensorflow",
        "tensorflow-cpu",
        "both put their files into the same folder: which one is imported is a matter of chance",
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


AREA = "software"
_LIBRARIES = (
    *("grpcio", "protobuf", "httpx", "numpy", "tensorflow", "keras", "tensorflow-hub"),
    *("onnx", "tf2onnx", "onnxruntime", "onnxruntime-gpu", "pillow", "simplejpeg"),
)
_DEEP = ("tensorflow", "tensorflow_hub", "onnxruntime", "tf2onnx", "simplejpeg")
_DEEP_TIMEOUT = 120.0


def look() -> Iterator[Finding]:
    """Findings on versions and conflicts; nothing of what is looked at is imported."""
    where = f"{platform.python_implementation()} {platform.python_version()}, {sys.prefix}"
    yield Finding(AREA, "python", Status.OK, where, data={"version": platform.python_version()})
    versions = {name: v for name in _LIBRARIES if (v := installed_version(name)) is not None}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding(AREA, "mlserve", Status.OK, __version__, data={"version": __version__})
    yield Finding(AREA, "libraries", Status.OK, listed, data={"versions": versions})
    yield from _conflicts()


def look_at_plugins() -> Iterator[Finding]:
    """Findings on the backends and the model sources. The default ones must be usable."""
    reports = plugins.survey()
    for report in reports:
        if report.error is not None:
            status = Status.FAIL if report.name == DEFAULT_BACKEND else Status.WARN
            yield Finding(AREA, report.name, status, report.error.message, report.error.hint)
        elif report.backend is not None:
            yield _backend(report)
    if DEFAULT_BACKEND not in {report.name for report in reports}:
        yield Finding(
            AREA,
            DEFAULT_BACKEND,
            Status.FAIL,
            "the default backend is not installed",
            install_command(plugins.KNOWN[DEFAULT_BACKEND]) + ", or name another: --backend",
        )
    yield _sources(reports)


def import_each() -> list[Finding]:
    """Findings on whether the runtimes can be imported, each by a process of its own."""
    there = [name for name in _DEEP if find_spec(name) is not None]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(_import, there))


def _conflicts() -> Iterator[Finding]:
    declared, known = declared_conflicts(), known_conflicts()
    for conflict in declared:
        status = Status.FAIL if conflict.is_too_old else Status.WARN
        yield Finding(AREA, "conflict", status, conflict.text, conflict.fix)
    for pair in known:
        text = f"{pair.one} and {pair.other}: {pair.text}"
        yield Finding(AREA, "conflict", Status.FAIL, text, pair.fix)
    if not declared and not known:
        yield Finding(AREA, "conflicts", Status.OK, "none: every package has what it needs")


def _backend(report: plugins.PluginReport) -> Finding:
    assert report.backend is not None
    missing = plugins.absent_to_serve(report.backend)
    if not missing:
        return Finding(AREA, report.name, Status.OK, report.backend.summary)
    status = Status.FAIL if report.name == DEFAULT_BACKEND else Status.WARN
    text = f"cannot serve: {', '.join(missing)} not installed"
    return Finding(AREA, report.name, status, text, report.backend.install_hint)


def _sources(reports: list[plugins.PluginReport]) -> Finding:
    sources = [source for report in reports for source in report.sources]
    usable = [source for source in sources if not plugins.absent_modules(source.requires)]
    if usable:
        return Finding(AREA, "models", Status.OK, ", ".join(source.name for source in usable))
    status = Status.WARN if exported() else Status.FAIL
    hint = sources[0].install_hint if sources else install_command(plugins.KNOWN["models"])
    return Finding(AREA, "models", status, "no model source can be used: nothing to export", hint)


def _import(module: str) -> Finding:
    started = time.monotonic()
    name = f"import {module}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEEP_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            AREA, name, Status.FAIL, f"not done within {_DEEP_TIMEOUT:g} s", _fix(module)
        )
    if done.returncode == 0:
        return Finding(AREA, name, Status.OK, f"{time.monotonic() - started:.1f} s")
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Finding(AREA, name, Status.FAIL, said, _fix(module))


def _fix(module: str) -> str:
    return f"python -c 'import {module}' shows the whole error; install the package again"
