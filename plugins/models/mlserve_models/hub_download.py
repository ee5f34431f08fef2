"""Fetch a module with tensorflow-hub's own resolver and open it."""

from __future__ import annotations

import http.client
import socket
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

import tensorflow as tf
import tensorflow_hub as hub

from mlserve.classifiers import Network
from mlserve.digests import path_digest
from mlserve.errors import ExportError, reason_of
from mlserve.sources import ModelRequest, Progress
from mlserve_models.framework import environment
from mlserve_models.hub_cache import CACHE_VARIABLE, CachedModule, no_module, unreachable
from mlserve_models.names import HubModel
from mlserve_models.saved_model import network_of_loaded, require_safe

STALL_SECONDS = 10.0
_LOOK_SECONDS = 0.2

_FETCH_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    tarfile.TarError,
    zlib.error,
    http.client.HTTPException,
    tf.errors.OpError,
)


def fetch(module: CachedModule, progress: Progress, stall_seconds: float = STALL_SECONDS) -> None:
    """Download the module into the cache unless it is there.

    `stall_seconds` is how long the hub may stay silent. Raises ExportError with the cause.
    """
    module.remove_leftovers()
    try:
        with _hub_settings(module, stall_seconds), _watched(module, progress):
            hub.resolve(module.url)
    except HTTPError as error:
        error.close()
        raise no_module(module.url, f"HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise unreachable(module.url, f"silent for {stall_seconds:g} s") from error
    except URLError as error:
        raise unreachable(module.url, str(error.reason)) from error
    except _FETCH_ERRORS as error:
        raise no_module(module.url, reason_of(error)) from error


def open_module(
    name: str, request: ModelRequest, model: HubModel, module: CachedModule, progress: Progress
) -> Network:
    """Open the module as a network, downloading it if it is not in the cache.

    A module that has just been downloaded and proves incomplete, or has another interface, is
    removed from the cache again. Raises ExportError.
    """
    was_cached = module.is_complete
    if not was_cached:
        fetch(module, progress)
    try:
        return _network(request, model, module)
    except ExportError as error:
        if was_cached:
            raise ExportError(
                error.message, hint=f"remove {module.folder} so that {name} is fetched again"
            ) from error
        module.remove()
        raise no_module(module.url, error.message) from error


def _network(request: ModelRequest, model: HubModel, module: CachedModule) -> Network:
    require_safe(module.folder, f"the module {module.url}", request)
    try:
        loaded = hub.load(str(module.folder))
    except Exception as error:  # TensorFlow has no common error for damaged SavedModels
        raise ExportError(
            f"the module in {module.folder} cannot be loaded: {reason_of(error)}"
        ) from error
    source = f"TF-Hub {module.url}"
    digest, known = path_digest(module.folder), model.known_scale
    network = network_of_loaded(loaded, request, source, digest, known)
    if network.units != model.units:
        raise ExportError(f"{source} gives {network.units} classes, not {model.units}")
    return network


@contextmanager
def _hub_settings(module: CachedModule, stall_seconds: float) -> Iterator[None]:
    """Configure tensorflow-hub: our cache, complete downloads, no output, no endless wait.

    tensorflow-hub opens its connection without a timeout, so the process's default applies.
    """
    settings = {
        CACHE_VARIABLE: str(module.cache),
        "TFHUB_DOWNLOAD_PROGRESS": "",
        "TFHUB_MODEL_LOAD_FORMAT": "COMPRESSED",
    }
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(stall_seconds)
    try:
        with environment(settings):
            yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _watched(module: CachedModule, progress: Progress) -> Iterator[None]:
    """Report arriving bytes from a thread: tensorflow-hub has no callback for them."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_LOOK_SECONDS):
            progress(_DOWNLOADING, module.arrived_bytes(), None)

    watcher = threading.Thread(target=watch, name="tfhub-progress")
    progress(_DOWNLOADING, 0, None)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()
    size = sum(file.stat().st_size for file in module.folder.rglob("*") if file.is_file())
    progress(_DOWNLOADING, size, size)


_DOWNLOADING = "downloading from TF-Hub"
