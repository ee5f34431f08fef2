"""From an address to a local path: the copy in the cache, fetched if it is not the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mlserve.digests import path_digest
from mlserve.errors import ExportError, MlserveError, UsageError, reason_of
from mlserve.remote.address import Address, is_remote, parse_digest
from mlserve.remote.cache import Copy, Entry
from mlserve.remote.mlflow_store import MLMODEL
from mlserve.remote.upstream import Unreachable, Upstream
from mlserve.sources import ModelRequest, Progress


@dataclass(frozen=True, slots=True)
class Resolved:
    """The local copy of an address; `unchecked` says why the server was not asked, if so."""

    copy: Copy
    unchecked: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        copy = self.copy
        return {
            "url": copy.url,
            "resolved": copy.resolved,
            "revision": copy.revision,
            "sha256": copy.digest,
            "fetched": copy.fetched,
            "unchecked": self.unchecked,
        }


Fetched = dict[str, Resolved]
"""What was fetched for a request, by the option that named it: `weights`, `labels`."""


def localized(request: ModelRequest, progress: Progress) -> tuple[ModelRequest, Fetched]:
    """Return the request with local paths in place of addresses, and what was fetched for it.

    A folder that MLflow has written stands for the model file in it. Raises what `resolve` raises,
    and UsageError for `--sha256` without weights of the user's own.
    """
    fetched: Fetched = {}
    if isinstance(request.labels, str) and is_remote(request.labels):
        address = Address.parse(request.labels)
        fetched["labels"] = resolve(address, progress, offline=request.offline)
        request = replace(request, labels=fetched["labels"].copy.path)
    if request.weights is not None and is_remote(request.weights):
        address = Address.parse(request.weights, request.sha256)
        fetched["weights"] = resolve(address, progress, offline=request.offline)
        request = replace(request, weights=str(fetched["weights"].copy.path))
    elif request.sha256 is not None:
        _require_digest(request, parse_digest(request.sha256))
    path = request.weights_path
    if path is not None and (path / MLMODEL).is_file():
        from mlserve.remote.mlmodel import model_in

        request = replace(request, weights=str(model_in(path)))
    return request, fetched


@contextmanager
def addresses_named(fetched: Fetched) -> Iterator[None]:
    """Name addresses, and not the cache's paths, in the errors raised inside the block."""
    try:
        yield
    except MlserveError as error:
        error.message = named(error.message, fetched)
        error.hint = error.hint and named(error.hint, fetched)
        raise


def named(text: str, fetched: Fetched) -> str:
    """Return the text with addresses in place of the cache's paths."""
    for resolved in fetched.values():
        text = text.replace(str(resolved.copy.path), resolved.copy.url)
    return text


def resolve(address: Address, progress: Progress, *, offline: bool = False) -> Resolved:
    """Return a local copy of what is at the address, and of the digest it was given with.

    A copy of that digest is taken without asking the server. If the server does not answer, the
    copy that was fetched last is taken. Raises ExportError if there is none, if the digest is
    another, or if the disk fails; NotFound, AccessDenied; UsageError; PluginError.
    """
    entry = Entry(address)
    try:
        with entry.locked(progress):
            if address.digest and (pinned := entry.copy(address.digest)):
                return Resolved(pinned, unchecked="the copy has the given digest")
            last = entry.copy()
            if offline:
                return Resolved(_offline(address, last), unchecked="--offline")
            return _asked(address, entry, last, progress)
    except OSError as error:
        raise ExportError(
            f"{address.shown} cannot be kept in the cache: {reason_of(error)}",
            hint="make room on the disk, or set MLSERVE_HOME to a folder on another one",
        ) from error


def _asked(address: Address, entry: Entry, last: Copy | None, progress: Progress) -> Resolved:
    progress(f"asking for {address.shown}", 0, None)
    try:
        found = upstream_of(address).fetch(last.revision if last else None, entry.partial, progress)
    except Unreachable as error:
        if last is None or address.digest not in {None, last.digest}:
            raise
        return Resolved(last, unchecked=error.message)
    except MlserveError as error:
        entry.partial.clear()
        if last is None or address.digest:
            raise
        kept = f"a copy of {last.fetched} is in the cache; --offline exports that one"
        error.hint = f"{error.hint}; {kept}" if error.hint else kept
        raise
    if found is None and last is not None:
        _require_pinned(address, last.digest)
        return Resolved(last)
    if found is None:
        raise ValueError(f"{address.shown}: nothing is known and nothing came")
    digest = entry.digest_of_arrived()
    try:
        _require_pinned(address, digest)
    except ExportError:
        entry.partial.clear()
        raise
    return Resolved(entry.publish(found, digest))


def _offline(address: Address, last: Copy | None) -> Copy:
    if last is None:
        raise not_cached(address.shown)
    if address.digest not in {None, last.digest}:
        raise not_cached(f"{address.shown} with the digest sha256:{address.digest}")
    return last


def not_cached(what: str) -> ExportError:
    """Return the error for `--offline` and an address, or content, of which there is no copy."""
    return ExportError(
        f"{what} is not in the cache, and --offline fetches nothing",
        hint="export it once without --offline, where there is a network",
    )


def _require_pinned(address: Address, digest: str) -> None:
    if address.digest not in {None, digest}:
        raise _wrong_digest(address.shown, digest, str(address.digest))


def _require_digest(request: ModelRequest, expected: str) -> None:
    """Raise UsageError if a local file has another digest than the one that was given for it."""
    path = request.weights_path
    if path is None:
        raise UsageError(
            "--sha256 is the digest of your own weights, and there are none",
            hint="give --weights, or leave --sha256 out",
        )
    if path.exists() and (digest := path_digest(path)) != f"sha256:{expected}":
        raise _wrong_digest(f"--weights {path}", digest.removeprefix("sha256:"), expected)


def _wrong_digest(what: str, digest: str, expected: str) -> ExportError:
    return ExportError(
        f"{what} has the digest sha256:{digest}, not sha256:{expected} as given",
        hint="find out which of the two is right before you go on",
    )


def upstream_of(address: Address) -> Upstream:
    """Return the server's side of an address; imports only what that kind needs."""
    if address.scheme in {"http", "https"}:
        from mlserve.remote.http import HttpFile

        return HttpFile(address)
    if address.scheme in {"s3", "gs"}:
        from mlserve.remote.objects import Objects

        return Objects(address)
    if address.scheme == "hf":
        from mlserve.remote.hub import HubFiles

        return HubFiles(address)
    from mlserve.remote.mlflow import MlflowArtifacts

    return MlflowArtifacts(address, upstream_of)
