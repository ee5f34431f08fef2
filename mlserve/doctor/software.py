"""Python, the libraries and the plugins: versions, conflicts, and what can be imported."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from mlserve import __version__, plugins
from mlserve.choosing import DEFAULT_BACKEND
from mlserve.distributions import install_command
from mlserve.doctor.finding import Finding, Status
from mlserve.doctor.requirements import declared_conflicts, installed_version, known_conflicts
from mlserve.launch.plan import exported

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
