"""Checks of the machine or container: launchers, ports, memory, files, network."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx  # noqa: TID253
import psutil

from mlserve import paths, plugins
from mlserve.backend import Listen, ServerSpec
from mlserve.background import run_within
from mlserve.deadline import Deadline
from mlserve.distributions import SERVER, SERVER_HINT, absent_packages
from mlserve.doctor.finding import Area, Finding, Status
from mlserve.errors import DeadlineExceeded, MlserveError
from mlserve.launch import ports
from mlserve.launch.docker import engine
from mlserve.launch.records import read_records
from mlserve.launch.running import server_of
from mlserve.launcher import Launcher
from mlserve.settings import GRPC_PORT, NATIVE, REST_PORT
from mlserve.sources import DEFAULT_MODEL
from mlserve.store import Store
from mlserve.system import memory_limit, usable_cpus

_ENGINE_TIMEOUT = 2.0
_ENOUGH_MEMORY = 2 * 2**30
"""Bytes that exporting with TensorFlow needs."""
_ROOM = 2 * 2**30
"""Bytes for a download, its export and an image build, with some to spare."""
_LEAST_ROOM = 200 * 2**20
_COUNT_SECONDS = 1.0
_ELSEWHERE = "fix the permissions, or put mlserve's files elsewhere with MLSERVE_HOME"
_HUB = "TF-Hub"
_HUB_TIMEOUT = 2.0
_HUB_FIX = (
    "set HTTPS_PROXY if there is a proxy, or name a mirror with MLSERVE_TFHUB_URL; without TF-Hub, "
    "export a model whose weights come from a package (mlserve export --model efficientnet_lite0) "
    "or your own (--weights FILE)"
)


def look_at_launchers() -> Iterator[Finding]:
    """Check the embedded, the native and the docker launcher, and those of plugins."""
    specs = list(_specs())
    yield _embedded()
    yield from _native([spec for spec in specs if spec.launcher == NATIVE])
    yield from _docker([spec for spec in specs if spec.image is not None])
    for report in plugins.survey():
        if report.launcher is not None:
            yield _of_plugin(report.launcher)


def _of_plugin(launcher: type[Launcher]) -> Finding:
    absent = plugins.absent_modules(launcher.requires)
    if not absent:
        return Finding(Area.LAUNCHERS, launcher.name, Status.OK, launcher.summary)
    text = f"{', '.join(absent)} not installed"
    return Finding(Area.LAUNCHERS, launcher.name, Status.WARN, text, launcher.install_hint)


def _specs() -> Iterator[ServerSpec]:
    for report in plugins.survey():
        if report.backend is not None:
            listen = Listen("127.0.0.1", GRPC_PORT, REST_PORT)
            yield from report.backend().external_servers(Path("m"), "m", (), listen)


def _embedded() -> Finding:
    absent = absent_packages(*SERVER)
    if absent:
        text = f"cannot start: {', '.join(absent)} not installed"
        return Finding(Area.LAUNCHERS, "embedded", Status.FAIL, text, SERVER_HINT)
    return Finding(Area.LAUNCHERS, "embedded", Status.OK, "mlserve's own server can start")


def _native(specs: list[ServerSpec]) -> Iterator[Finding]:
    for spec in specs:
        found = shutil.which(spec.executable)
        if found is None:
            text = f"{spec.executable} is not on PATH; the embedded server is used"
            yield Finding(Area.LAUNCHERS, "native", Status.WARN, text, spec.install_hint)
        else:
            yield Finding(Area.LAUNCHERS, "native", Status.OK, found)


def _docker(specs: list[ServerSpec]) -> Iterator[Finding]:
    try:
        found = engine.engine_info(_ENGINE_TIMEOUT)
    except MlserveError as error:
        yield Finding(Area.LAUNCHERS, "docker", Status.WARN, error.message, error.hint)
        return
    memory = _in_words(found.memory)
    rootless = ", rootless" if found.is_rootless else ""
    text = f"engine {found.version}, {found.architecture}, {found.cpus} CPUs, {memory}{rootless}"
    yield Finding(
        Area.LAUNCHERS, "docker", Status.OK, text, data={"architecture": found.architecture}
    )
    for spec in specs:
        if spec.image is not None and found.architecture not in spec.image.architectures:
            text = f"{spec.image.name} is not published for {found.architecture}"
            yield Finding(Area.LAUNCHERS, "docker", Status.WARN, text, spec.install_hint)


def look_at_resources() -> Iterator[Finding]:
    """Check the default ports, the CPUs and the memory."""
    yield port_finding("port gRPC", GRPC_PORT)
    yield port_finding("port REST", REST_PORT)
    yield _cpus()
    yield _memory()


def port_finding(name: str, port: int) -> Finding:
    """Check whether a server could listen on that port, and name the process that does."""
    data = {"port": port}
    if ports.is_free("127.0.0.1", port):
        return Finding(Area.MACHINE, name, Status.OK, f"{port} is free", data=data)
    for record in read_records(lambda _: None):
        is_its = port in (record.listen.grpc_port, record.listen.rest_port)
        if is_its and server_of(record).is_running():
            text = f"{port} is {record.name}'s, a server of mlserve up"
            return Finding(Area.MACHINE, name, Status.OK, text, data=data)
    holder = ports.owner(port)
    text = f"{port} is taken" + (f" by {holder}" if holder else "")
    fix = "nothing to do: mlserve up takes the next free pair, and predict finds it"
    return Finding(Area.MACHINE, name, Status.WARN, text, fix, data)


def _cpus() -> Finding:
    usable, there = usable_cpus(), os.cpu_count() or 1
    text = f"{usable} of {there} CPUs may be used" if usable < there else f"{usable} CPUs"
    return Finding(Area.MACHINE, "cpus", Status.OK, text, data={"usable": usable, "machine": there})


def _memory() -> Finding:
    machine, limit = psutil.virtual_memory(), memory_limit()
    available = machine.available if limit is None else min(limit, machine.available)
    text = f"{_in_words(available)} available of {_in_words(machine.total)}"
    text += "" if limit is None else f", limited to {_in_words(limit)} by the cgroup"
    data = {"available": available, "total": machine.total, "limit": limit}
    if available >= _ENOUGH_MEMORY:
        return Finding(Area.MACHINE, "memory", Status.OK, text, data=data)
    fix = "make room: an export with TensorFlow takes about 2 GiB; serving with ONNX Runtime less"
    return Finding(Area.MACHINE, "memory", Status.WARN, text, fix, data)


def look_at_files() -> Iterator[Finding]:
    """Check the store, the downloads and the records."""
    for name, path in (
        ("store", paths.store_dir()),
        ("downloads", paths.cache_dir()),
        ("records", paths.state_dir()),
    ):
        yield _folder(name, path)
    yield _exported()


def _folder(name: str, path: Path) -> Finding:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    size, is_whole = _size(path)
    counted = (
        f"{'' if is_whole else 'over '}{_in_words(size)}" if path.exists() else "not there yet"
    )
    text = f"{path}: {counted}, {_in_words(free)} free"
    data = {"path": str(path), "bytes": size, "free": free}
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            Area.FILES, name, Status.FAIL, f"{text}, cannot be written", _ELSEWHERE, data
        )
    if free < _ROOM:
        status = Status.FAIL if free < _LEAST_ROOM else Status.WARN
        fix = "make room there, or put mlserve's files on another disk with MLSERVE_HOME"
        return Finding(Area.FILES, name, status, text, fix, data)
    return Finding(Area.FILES, name, Status.OK, text, data=data)


def _exported() -> Finding:
    try:
        models = [f"{model} ({backend})" for backend, model in Store().exported()]
    except MlserveError as error:
        return Finding(Area.FILES, "models", Status.FAIL, error.message, error.hint)
    text = ", ".join(models) or "none has been exported yet"
    return Finding(Area.FILES, "models", Status.OK, text, None if models else "mlserve export")


def _size(folder: Path) -> tuple[int, bool]:
    """Return the bytes in a folder, and whether the count finished in time."""
    give_up = time.monotonic() + _COUNT_SECONDS
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:
                continue  # deleted meanwhile
        if time.monotonic() > give_up:
            return total, False
    return total, True


def look_at_network() -> Iterator[Finding]:
    """Check TF-Hub, or its mirror, if the default model has to be downloaded.

    Without it, and with nothing exported so far, the default path does not work.
    """
    sources = [source for report in plugins.survey() for source in report.sources]
    known = next((source for source in sources if DEFAULT_MODEL in source.models), None)
    if known is None:
        return  # the finding on the model sources says so
    url = known.download(DEFAULT_MODEL)
    if url is None:
        text = f"{DEFAULT_MODEL} is here already: nothing needs to be downloaded"
        yield Finding(Area.NETWORK, _HUB, Status.OK, text)
    else:
        yield reach(url, Status.WARN if _has_models() else Status.FAIL)


def reach(url: str, otherwise: Status, timeout: float = _HUB_TIMEOUT) -> Finding:
    """Check that the URL's server answers in `timeout` seconds; if not, report `otherwise`."""
    place = httpx.URL(url).copy_with(path="/")
    try:
        run_within(Deadline.after(timeout), f"reaching {_HUB}", lambda: _ask(place, timeout))
    except DeadlineExceeded:
        text = f"{place} did not answer within {timeout:g} s"
        return Finding(Area.NETWORK, _HUB, otherwise, text, _HUB_FIX)
    except httpx.HTTPError as error:
        text = f"{place} cannot be reached: {str(error) or type(error).__name__}"
        return Finding(Area.NETWORK, _HUB, otherwise, text, _HUB_FIX)
    return Finding(Area.NETWORK, _HUB, Status.OK, f"{place} answers")


def _ask(place: httpx.URL, timeout: float) -> int:
    """Return the status code, whose value is irrelevant: any answer will do."""
    return httpx.head(place, timeout=timeout).status_code


def _has_models() -> bool:
    try:
        return bool(Store().exported())
    except MlserveError:
        return False


def _in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
