"""Which launchers would work here, and why the others would not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from mlserve import plugins
from mlserve.backend import Listen, ServerSpec
from mlserve.distributions import SERVER, SERVER_HINT, absent_packages
from mlserve.doctor.finding import Finding, Status
from mlserve.errors import MlserveError
from mlserve.launch.docker import cli

AREA = "launchers"
_ENGINE_TIMEOUT = 2.0


def look() -> Iterator[Finding]:
    """Findings on the embedded, the native and the docker launcher."""
    specs = list(_specs())
    yield _embedded()
    yield from _native([spec for spec in specs if spec.launcher == "native"])
    yield from _docker([spec for spec in specs if spec.image is not None])


def _specs() -> Iterator[ServerSpec]:
    for report in plugins.survey():
        if report.backend is not None:
            listen = Listen("127.0.0.1", 8500, 8501)
            yield from report.backend().external_servers(Path("m"), "m", (), listen)


def _embedded() -> Finding:
    absent = absent_packages(*SERVER)
    if absent:
        text = f"cannot start: {', '.join(absent)} not installed"
        return Finding(AREA, "embedded", Status.FAIL, text, SERVER_HINT)
    return Finding(AREA, "embedded", Status.OK, "mlserve's own server can start")


def _native(specs: list[ServerSpec]) -> Iterator[Finding]:
    for spec in specs:
        found = shutil.which(spec.executable)
        if found is None:
            text = f"{spec.executable} is not on PATH; the embedded server is taken"
            yield Finding(AREA, "native", Status.WARN, text, spec.install_hint)
        else:
            yield Finding(AREA, "native", Status.OK, found)


def _docker(specs: list[ServerSpec]) -> Iterator[Finding]:
    try:
        found = cli.engine(_ENGINE_TIMEOUT)
    except MlserveError as error:
        yield Finding(AREA, "docker", Status.WARN, error.message, error.hint)
        return
    memory = f"{found.memory / 2**30:.1f} GiB"
    rootless = ", rootless" if found.is_rootless else ""
    text = f"engine {found.version}, {found.architecture}, {found.cpus} CPUs, {memory}{rootless}"
    yield Finding(AREA, "docker", Status.OK, text, data={"architecture": found.architecture})
    for spec in specs:
        if spec.image is not None and found.architecture not in spec.image.architectures:
            text = f"{spec.image.name} is not published for {found.architecture}"
            yield Finding(AREA, "docker", Status.WARN, text, spec.install_hint)
