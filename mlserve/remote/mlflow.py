"""Models and artifacts of MLflow: what a `models:/` or `runs:/` address stands for, and its files.

MLFLOW_TRACKING_URI names the tracking server or the folder of its file store, and
MLFLOW_REGISTRY_URI the registry if it is another one. mlflow itself is not imported: its REST API
and the layout of its file store are documented and stable, and it would bring a hundred packages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlserve.errors import ExportError, NotFound, UsageError
from mlserve.remote.address import Address, is_remote, safe_name
from mlserve.remote.mlflow_rest import RestStore
from mlserve.remote.mlflow_store import FileStore, Tracking
from mlserve.remote.upstream import Found, Partial, Upstream
from mlserve.sources import Progress

TRACKING_VARIABLE, REGISTRY_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
_DEFAULT_FOLDER = "mlruns"
_MOST_STEPS = 5
_MODEL_ID = "m-"
_STAGES = {"staging", "production", "archived", "none"}
_HOW = "write models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest or runs:/RUN_ID/PATH"


class MlflowArtifacts(Upstream):
    """A file or a folder that MLflow keeps; `upstream_of` opens the storage it may lie in."""

    def __init__(self, address: Address, upstream_of: Callable[[Address], Upstream]) -> None:
        self._address = address
        self._upstream_of = upstream_of
        self._what = address.text.partition(":")[2].strip("/")
        self._stores: dict[str, Tracking] = {}
        safe_name(self._what or "..", address.shown)

    def fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        try:
            return self._fetch(known, into, progress)
        finally:
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def _fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        location = self._location(self._address.scheme, self._what)
        scheme = urlsplit(location).scheme
        if scheme == "mlflow-artifacts":
            is_fixed = self._address.scheme == "models"
            store = self._store(TRACKING_VARIABLE)
            if not isinstance(store, RestStore):
                raise UsageError(
                    f"{self._address.shown} lies on a tracking server, and the tracking store is "
                    f"{_tracking()}",
                    hint=f"set {TRACKING_VARIABLE} to the address of that server",
                )
            return store.fetch(location, known, into, progress, is_fixed=is_fixed)
        if scheme in {"", "file"}:
            return _copied(self._address, _local(location), known, into, progress)
        if not is_remote(location) or scheme in {"models", "runs"}:
            raise ExportError(
                f"{self._address.shown} lies in {Address(scheme, location).shown}, and mlserve "
                f"fetches nothing from {scheme}:",
                hint="download it with `mlflow artifacts download`, and give --weights FOLDER",
            )
        return self._upstream_of(Address.parse(location)).fetch(known, into, progress)

    def _location(self, scheme: str, what: str) -> str:
        """Return where the files are. A version may stand for a model, which a run has made."""
        for _ in range(_MOST_STEPS):
            location = self._step(scheme, what)
            scheme, _, rest = location.partition(":")
            if scheme not in {"models", "runs"}:
                return location
            what = rest.strip("/")
        raise ExportError(f"{self._address.shown} leads from one address of MLflow to the next")

    def _step(self, scheme: str, what: str) -> str:
        first, _, rest = what.partition("/")
        if scheme == "runs":
            return self._of_run(first, rest)
        name, _, alias = first.partition("@")
        if name.startswith(_MODEL_ID) and not alias:
            return _joined(self._store(TRACKING_VARIABLE).location_of_model(name), rest)
        registry = self._store(REGISTRY_VARIABLE)
        if alias:
            return _joined(
                registry.location_of_version(name, registry.version_of_alias(name, alias)), rest
            )
        version, _, inside = rest.partition("/")
        if version.lower() == "latest":
            version = registry.latest_version(name)
        if not version.isdecimal():
            raise self._no_version(version)
        return _joined(registry.location_of_version(name, version), inside)

    def _no_version(self, version: str) -> UsageError:
        if version.lower() in _STAGES:
            return UsageError(
                f"{self._address.shown} names a stage, which MLflow has deprecated",
                hint="set an alias on that version, and write models:/NAME@ALIAS",
            )
        return UsageError(f"{self._address.shown} names no version of a model", hint=_HOW)

    def _of_run(self, run: str, path: str) -> str:
        """Return where the artifact of a run is; since MLflow 3, models lie beside their runs."""
        if not run or not path:
            raise UsageError(f"{self._address.shown} names no artifact of a run", hint=_HOW)
        store = self._store(TRACKING_VARIABLE)
        name, _, inside = path.partition("/")
        model = store.model_of_run(run, name)
        if model is not None:
            return _joined(store.location_of_model(model), inside)
        return _joined(store.location_of_run(run), path)

    def _store(self, variable: str) -> Tracking:
        """Return the store that the variable names, opened once for each fetch."""
        uri = os.environ.get(variable) or _tracking()
        if uri not in self._stores:
            self._stores[uri] = self._opened(uri, variable)
        return self._stores[uri]

    def _opened(self, uri: str, variable: str) -> Tracking:
        scheme = urlsplit(uri).scheme
        if scheme in {"http", "https"}:
            return RestStore(uri, self._address)
        if scheme in {"", "file"}:
            return FileStore(_local(uri), self._address)
        raise UsageError(
            f"{self._address.shown}: mlserve reads no MLflow store at {scheme}://",
            hint=f"start `mlflow server` on it, and set {variable} to the server's address",
        )


def _tracking() -> str:
    """Return the address or folder of the tracking server. Raises UsageError if there is none."""
    uri = os.environ.get(TRACKING_VARIABLE)
    if uri:
        return uri
    if Path(_DEFAULT_FOLDER).is_dir():
        return str(Path(_DEFAULT_FOLDER).absolute())
    raise UsageError(
        "an address of MLflow needs a tracking server",
        hint=f"set {TRACKING_VARIABLE} to its address, or to the folder of its file store",
    )


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(uri)


def _joined(location: str, inside: str) -> str:
    return f"{location.rstrip('/')}/{inside}" if inside else location


def _copied(
    address: Address, path: Path, known: str | None, into: Partial, progress: Progress
) -> Found | None:
    """Copy a file or a folder of this machine. What is new about it, names, sizes and times say."""
    if not path.exists():
        raise NotFound(
            f"{address.shown}: there is nothing at {path}, where MLflow has noted it",
            hint="check that the folder of its artifacts is on this machine, under the same name",
        )
    revision = _state_of(path)
    if revision == known:
        return None
    into.begin(revision)
    into.clear_content()
    progress(f"copying {path.name}", 0, None)
    target = into.content / safe_name(path.name, address.shown)
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copyfile(path, target)
    return Found(path.absolute().as_uri(), revision)


def _state_of(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    states: list[tuple[Any, ...]] = [
        (file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.is_file()
    ]
    return f"files {sha256(repr(states).encode(errors='surrogateescape')).hexdigest()}"
