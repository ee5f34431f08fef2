"""A server of files, and a short way to the local copy of an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlserve.export import no_progress
from mlserve.remote.address import Address
from mlserve.remote.cache import Copy, Entry
from mlserve.remote.resolving import Resolved, resolve
from mlserve.remote.upstream import Found
from tests.harness.file_server import FileServer, serving_files

Get = Callable[..., Resolved]


@pytest.fixture
def site() -> Iterator[FileServer]:
    with serving_files() as served:
        yield served


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the copies that were fetched, one for each fetch."""
    digests: list[str] = []

    def publish(self: Entry, found: Found, digest: str) -> Copy:
        digests.append(digest)
        return _publish(self, found, digest)

    monkeypatch.setattr(Entry, "publish", publish)
    return digests


_publish = Entry.publish


@pytest.fixture
def get() -> Get:
    """Resolves an address: `get(url, digest, offline=True)`."""

    def resolved(url: str, digest: str | None = None, *, offline: bool = False) -> Resolved:
        return resolve(Address.parse(url, digest), no_progress, offline=offline)

    return resolved
