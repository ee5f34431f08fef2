"""Which versions of a model the servers of this machine serve, or will serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlserve.errors import MlserveError, Unavailable
from mlserve.inventory import ModelFolder, StoredVersion, VersionState
from mlserve.launch.ready import client_of
from mlserve.launch.records import ServerRecord, read_records
from mlserve.launch.running import server_of
from mlserve.pin import pin_or_none
from mlserve.settings import Launcher

_ANSWER_SECONDS = 5.0


def follows_pin(record: ServerRecord) -> bool:
    """Return whether the server looks at the pin: a process of mlserve's without `--version`."""
    return record.launcher is Launcher.EMBEDDED and record.serving.versions.follows_latest


def pin_of(record: ServerRecord) -> int | None:
    """Return the version that the server serves because it is pinned; None if it is not."""
    return pin_or_none(record.serving.base_path) if follows_pin(record) else None


def running_servers() -> list[ServerRecord]:
    """Return the records of the servers that run."""
    return [record for record in read_records() if server_of(record).is_running()]


def servers_at(base_path: Path) -> list[ServerRecord]:
    """Return the running servers that serve the versions in that folder."""
    wanted = base_path.resolve()
    return [r for r in running_servers() if r.serving.base_path.resolve() == wanted]


def recorded(record: ServerRecord, versions: Sequence[StoredVersion]) -> tuple[int, ...]:
    """Return which of the versions the server should serve, as its record says; it is not asked."""
    usable = (VersionState.WHOLE, VersionState.DAMAGED)
    present = [v.artifact.version for v in versions if v.state in usable]
    pinned = [v.artifact.version for v in versions if v.is_pinned]
    if pinned and follows_pin(record):
        return tuple(pinned)
    return record.serving.versions.wanted(present)


def served_now(record: ServerRecord) -> frozenset[int]:
    """Return the versions that the server has loaded, is loading or is about to unload.

    Raises Unavailable if it cannot be asked.
    """
    try:
        with client_of(record) as client:
            statuses = client.status(timeout=_ANSWER_SECONDS)
    except MlserveError as error:
        raise Unavailable(
            f"{record.name} does not say which versions it serves: {error.message}",
            hint=f"see mlserve status --server {record.name}, or stop it: "
            f"mlserve down {record.name}",
        ) from error
    return frozenset(s.version for s in statuses if s.version is not None and s.state != "END")


def users_by_version(folder: ModelFolder) -> dict[int, list[str]]:
    """Return the names of the servers that serve each version, as they say themselves.

    Raises Unavailable if one cannot be asked.
    """
    users: dict[int, list[str]] = {}
    for record in servers_at(folder.base_path):
        for version in served_now(record):
            users.setdefault(version, []).append(record.name)
    return users
