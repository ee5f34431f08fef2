"""Checks of Python, the libraries and the plugins: versions, conflicts, and imports."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from mlserve import __version__, plugins
from mlserve.distributions import install_command
from mlserve.doctor.finding import Area, Finding, Status
from mlserve.settings import DEFAULT_BACKEND
from mlserve.store import Store

_LIBRARIES = (
    *("grpcio", "protobuf", "httpx", "numpy", "tensorflow", "keras", "tensorflow-hub"),
    *(
        "onnx",
        "tf2onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "nncf",
        "pillow",
        "simplejpeg",
    ),
)
_DEEP = ("tensorflow", "tensorflow_hub", "onnxruntime", "tf2onnx", "simplejpeg")
_DEEP_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class KnownConflict:
    """Two packages that do not work together although neither declares it."""

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


def look_at_packages() -> Iterator[Finding]:
    """Check versions and conflicts, without importing the packages."""
    where = f"{platform.python_implementation()} {platform.python_version()}, {sys.prefix}"
    yield Finding(
        Area.SOFTWARE, "python", Status.OK, where, data={"version": platform.python_version()}
    )
    versions = {name: v for name in _LIBRARIES if (v := installed_version(name)) is not None}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding(Area.SOFTWARE, "mlserve", Status.OK, __version__, data={"version": __version__})
    yield Finding(Area.SOFTWARE, "libraries", Status.OK, listed, data={"versions": versions})
    yield from _conflicts()


def known_conflicts() -> list[KnownConflict]:
    """Return the known conflicts that are installed here."""
    return [known for known in _KNOWN if _is_there(known.one) and _is_there(known.other)]


def _conflicts() -> Iterator[Finding]:
    known = known_conflicts()
    for pair in known:
        text = f"{pair.one} and {pair.other}: {pair.text}"
        yield Finding(Area.SOFTWARE, "conflict", Status.FAIL, text, pair.fix)
    if not known:
        text = "none that is known here; `pip check` shows those that packages declare"
        yield Finding(Area.SOFTWARE, "conflicts", Status.OK, text)


def _is_there(text: str) -> bool:
    requirement = Requirement(text)
    version = installed_version(requirement.name)
    try:
        return version is not None and requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True  # not comparable: assume so


def installed_version(name: str) -> str | None:
    """Return the version in an installed distribution's metadata; None if not installed."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def look_at_plugins() -> Iterator[Finding]:
    """Check the backends and the model sources. The default ones must be usable."""
    reports = plugins.survey()
    for report in reports:
        if report.error is not None:
            status = Status.FAIL if report.name == DEFAULT_BACKEND else Status.WARN
            yield Finding(
                Area.SOFTWARE, report.name, status, report.error.message, report.error.hint
            )
        elif report.backend is not None:
            yield _backend(report)
    if DEFAULT_BACKEND not in {report.name for report in reports}:
        yield Finding(
            Area.SOFTWARE,
            DEFAULT_BACKEND,
            Status.FAIL,
            "the default backend is not installed",
            install_command(plugins.KNOWN[DEFAULT_BACKEND]) + ", or name another: --backend",
        )
    yield _sources(reports)


def _backend(report: plugins.PluginReport) -> Finding:
    assert report.backend is not None
    missing = plugins.absent_to_serve(report.backend)
    if not missing:
        return Finding(Area.SOFTWARE, report.name, Status.OK, report.backend.summary)
    status = Status.FAIL if report.name == DEFAULT_BACKEND else Status.WARN
    text = f"cannot serve: {', '.join(missing)} not installed"
    return Finding(Area.SOFTWARE, report.name, status, text, report.backend.install_hint)


def _sources(reports: list[plugins.PluginReport]) -> Finding:
    sources = [source for report in reports for source in report.sources]
    usable = [source for source in sources if not plugins.absent_modules(source.requires)]
    if usable:
        return Finding(
            Area.SOFTWARE, "models", Status.OK, ", ".join(source.name for source in usable)
        )
    status = Status.WARN if Store().exported() else Status.FAIL
    hint = sources[0].install_hint if sources else install_command(plugins.KNOWN["models"])
    return Finding(
        Area.SOFTWARE, "models", status, "no model source can be used: nothing to export", hint
    )


def look_deeper() -> list[Finding]:
    """Check that the runtimes can be imported, and run `pip check`."""
    modules = [name for name in _DEEP if find_spec(name) is not None]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [*pool.map(_import, modules), pip_check()]


def _import(module: str) -> Finding:
    name, fix = f"import {module}", f"python -c 'import {module}' shows the whole error"
    started = time.monotonic()
    code, lines = _run([sys.executable, "-c", f"import {module}"])
    if code == 0:
        return Finding(Area.SOFTWARE, name, Status.OK, f"{time.monotonic() - started:.1f} s")
    return Finding(Area.SOFTWARE, name, Status.FAIL, lines[-1], f"{fix}; install the package again")


def pip_check() -> Finding:
    """Report unmet requirements; a warning only, as they may be irrelevant here."""
    code, lines = _run([sys.executable, "-m", "pip", "check"])
    if code == 0:
        return Finding(Area.SOFTWARE, "pip check", Status.OK, lines[-1])
    return Finding(
        Area.SOFTWARE, "pip check", Status.WARN, "; ".join(lines), "install what is named"
    )


def _run(argv: Sequence[str]) -> tuple[int, list[str]]:
    """Run a command and return its exit code and the lines it printed, at least one."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_DEEP_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, [f"not done within {_DEEP_TIMEOUT:g} s"]
    return done.returncode, done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
