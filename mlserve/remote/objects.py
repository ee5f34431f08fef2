"""Objects and prefixes of Amazon S3 and Google Cloud Storage, through s3fs and gcsfs.

Credentials come as these libraries find them: AWS_* variables, profiles and roles; Google's
application default credentials. AWS_ENDPOINT_URL and STORAGE_EMULATOR_HOST name other servers.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from mlserve.errors import AccessDenied, ExportError, MlserveError, NotFound, reason_of
from mlserve.remote.address import Address, safe_name
from mlserve.remote.upstream import (
    CONNECT_SECONDS,
    SILENT_SECONDS,
    Found,
    Partial,
    Upstream,
    absent_library,
    downloading,
    finish,
    is_of_disk,
    size_of,
    unreachable,
    whole_of,
)
from mlserve.sources import Progress

_CHUNK = 16 * 2**20
_TRIES = 3
"""How often S3 is asked; s3fs waits in between."""
_ANSWER_SECONDS = 20.0
"""How long the first answer may take: gcsfs by itself tries again for half a minute."""
_LIBRARIES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
"""For each scheme the library, and the extra of ours that brings it."""
_ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
_UNVERSIONED = "null"
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
_FORBIDDEN = {401, 403}
_ABSENT = 404


class Objects(Upstream):
    """An object, or everything below a prefix."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._path, _, self._query = address.text.rstrip("/").partition("?")
        self._name = Address(address.scheme, self._path).name

    def fetch(self, known: str | None, into: Partial, progress: Progress) -> Found | None:
        library, extra = _LIBRARIES[self._address.scheme]
        try:
            module = importlib.import_module(library)
            logging.getLogger(library).addHandler(logging.NullHandler())  # no tracebacks on stderr
        except ModuleNotFoundError as error:
            raise absent_library(self._address, library, extra) from error
        try:
            return self._fetch(module, known, into, progress, anonymous=False)
        except Exception as error:
            if is_of_disk(error):
                raise
            raise self._error(error) from error

    def _fetch(
        self, module: Any, known: str | None, into: Partial, progress: Progress, *, anonymous: bool
    ) -> Found | None:
        files = self._filesystem(module, anonymous=anonymous)
        try:
            objects = self._objects(files)
        except Exception as error:
            if anonymous or type(error).__name__ not in _NO_CREDENTIALS:
                raise
            return self._fetch(module, known, into, progress, anonymous=True)
        if not objects:
            raise FileNotFoundError(self._path)
        revision = _revision(objects)
        if revision is not None and revision == known:
            return None
        into.begin(revision)
        for name, info in objects.items():
            self._receive(files, name, info, into, progress)
        files.invalidate_cache()
        if _revision(self._objects(files)) != revision:
            into.clear()
            raise unreachable(self._address, "it was changed while it was fetched")
        return Found(f"{self._path}?{self._query}" if self._query else self._path, revision)

    def _filesystem(self, module: Any, *, anonymous: bool) -> Any:
        """Return a new filesystem: fsspec's own cache of them would keep old listings."""
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if self._query:
            options["version_aware"] = True
        if anonymous or (self._address.scheme == "gs" and os.environ.get("STORAGE_EMULATOR_HOST")):
            options |= _ANONYMOUS[self._address.scheme]
        if self._address.scheme == "gs":
            # Not gcsfs.GCSFileSystem, which asks over gRPC what kind of bucket it is, for a minute
            # where only JSON is spoken.
            return module.core.GCSFileSystem(requests_timeout=SILENT_SECONDS, **options)
        limits = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENT_SECONDS,
            "retries": {"max_attempts": _TRIES - 1},
        }
        files = module.S3FileSystem(config_kwargs=limits, **options)
        files.retries = _TRIES
        return files

    def _objects(self, files: Any) -> dict[str, Mapping[str, Any]]:
        """Return what is known of each object by its path in the content. Raises ExportError."""
        from fsspec.asyn import sync

        root = f"{self._path}?{self._query}" if self._query else self._path
        info = sync(files.loop, files._info, root, timeout=_ANSWER_SECONDS)  # noqa: SLF001
        if info["type"] != "directory":
            return {safe_name(self._name, self._address.shown): {**info, "name": root}}
        base = files._strip_protocol(self._path)  # noqa: SLF001  fsspec has no public name for it
        found = files.find(base, detail=True)
        below = {key[len(base) + 1 :]: item for key, item in sorted(found.items())}
        return {
            safe_name(f"{self._name}/{name}", self._address.shown): item
            for name, item in below.items()
            if name and not name.endswith("/")  # markers of empty folders
        }

    def _receive(
        self, files: Any, name: str, info: Mapping[str, Any], into: Partial, progress: Progress
    ) -> None:
        part, size = into.part_of(name), int(info["size"])
        if size_of(whole_of(part)) == size and size:
            return
        what = downloading(name)
        with (
            files.open(info["name"], "rb", block_size=_CHUNK, cache_type="none") as source,
            part.open("ab") as file,
        ):
            if file.tell() > size:
                file.truncate(0)
            source.seek(file.tell())
            while file.tell() < size:
                progress(what, file.tell(), size)
                chunk = source.read(min(_CHUNK, size - file.tell()))
                if not chunk:
                    raise unreachable(self._address, f"{name} ended after {file.tell()} bytes")
                file.write(chunk)
            progress(what, size, size)
        finish(part)

    def _error(self, error: Exception) -> MlserveError:
        if isinstance(error, MlserveError):
            return error
        shown = self._address.shown
        code = getattr(error, "code", None)
        if isinstance(error, FileNotFoundError) or code == _ABSENT:
            return NotFound(
                f"{shown}: there is no such object, nor anything below it",
                hint="check the bucket and the key",
            )
        if (
            isinstance(error, PermissionError)
            or code in _FORBIDDEN
            or type(error).__name__ in _NO_CREDENTIALS
        ):
            return AccessDenied(
                f"{shown} cannot be read: {reason_of(error)}",
                hint="give credentials in the way of its library; docs/sources.md lists them",
            )
        if type(error).__name__ == "FSTimeoutError":
            return unreachable(self._address, f"no answer within {_ANSWER_SECONDS:g} s")
        if isinstance(error, (ValueError, TypeError, KeyError)):
            return ExportError(f"{shown} cannot be fetched: {reason_of(error)}")
        return unreachable(self._address, reason_of(error))


def _revision(objects: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what changes when an object does: versions or ETags; of several, a digest of them.

    None if an object has neither.
    """
    marks = {name: _mark(info) for name, info in objects.items()}
    if None in marks.values():
        return None
    if len(marks) == 1:
        (name,) = marks
        if "/" not in name:
            return marks[name]
    text = "\n".join(f"{name} {mark}" for name, mark in sorted(marks.items()))
    return f"objects {sha256(text.encode(errors='surrogateescape')).hexdigest()}"


def _mark(info: Mapping[str, Any]) -> str | None:
    """Return an object's version or ETag, with its size."""
    version, generation = info.get("VersionId"), info.get("generation")
    if version and version != _UNVERSIONED:
        return f"version {version}"
    if generation:
        return f"generation {generation}"
    etag = info.get("ETag") or info.get("etag")
    return f"ETag {etag}" if etag else None
