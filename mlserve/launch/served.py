"""Which versions of a model the servers of this machine serve, or will serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlserve.errors import MlserveError, Unavailable
from mlserve.inventory import ModelFolder, StoredVersion, VersionState
from mlserve.launch.ready import client_of
from mlserve.launch.records import ServerRecord, read_records
from mlserve.launch.replicas import replicas_of
from mlserve.launch.running import server_of
from mlserve.pin import pin_or_none
from mlserve.served_model import ServedModel

if TYPE_CHECKING:
    from mlserve.client import Client

_ANSWER_SECONDS = 5.0


class Use(NamedTuple):
    """A server, and one of its models."""

    record: ServerRecord
    model: ServedModel

    @property
    def name(self) -> str:
        """The server's name."""
        return self.record.name

    @property
    def label(self) -> str:
        """The server's name, and the model's before it if the server has several."""
        if len(self.record.serving.models) == 1:
            return self.name
        return f"{self.model.model} of {self.name}"

    @property
    def follows_pin(self) -> bool:
        """Whether the server looks at the pin: mlserve's own, without versions of its own."""
        return self.record.traits.follows_pin and self.model.versions.follows_latest

    @property
    def pin(self) -> int | None:
        """The version that the server serves because it is pinned; None if it is not."""
        return pin_or_none(self.model.base_path) if self.follows_pin else None

    def client(self) -> Client:
        """Return a client of the model, which does not retry."""
        return client_of(self.record, self.model)

    def recorded(self, versions: Sequence[StoredVersion]) -> tuple[int, ...]:
        """Return which versions the server should serve, as its record says; it is not asked."""
        usable = (VersionState.WHOLE, VersionState.DAMAGED)
        present = [v.artifact.version for v in versions if v.state in usable]
        pinned = [v.artifact.version for v in versions if v.is_pinned]
        served = self.model.versions.wanted(present)
        if pinned and self.follows_pin:
            served = tuple(pinned)
        beside = [v for v in present if v == self.model.rollout.aside and v not in served]
        return (*served, *beside)

    def served_now(self) -> frozenset[int]:
        """Return the versions that the server has loaded, is loading or is about to unload.

        Raises Unavailable if it cannot be asked.
        """
        try:
            if self.record.traits.has_replicas:
                found = replicas_of(self.record, _ANSWER_SECONDS)
                return frozenset(
                    v.version for each in found.replicas for v in each.versions if v.state != "END"
                )
            with self.client() as client:
                statuses = client.status(timeout=_ANSWER_SECONDS)
        except MlserveError as error:
            raise Unavailable(
                f"{self.label} does not say which versions it serves: {error.message}",
                hint=f"see mlserve status --server {self.name}, or stop it: "
                f"mlserve down {self.name}",
            ) from error
        served = {s.version for s in statuses if s.version is not None and s.state != "END"}
        shadow = self.model.rollout.shadow_version  # it is in no status, as it answers nobody
        return frozenset(served if shadow is None else {*served, shadow})


def uses() -> list[Use]:
    """Return the models of the servers that run."""
    running = (record for record in read_records() if server_of(record).is_running())
    return [Use(record, model) for record in running for model in record.serving.models]


def uses_of(base_path: Path) -> list[Use]:
    """Return the running servers that serve the versions in that folder."""
    wanted = base_path.resolve()
    return [use for use in uses() if use.model.base_path.resolve() == wanted]


def users_by_version(folder: ModelFolder) -> dict[int, list[Use]]:
    """Return which servers serve each version, as they say themselves.

    Raises Unavailable if one cannot be asked.
    """
    users: dict[int, list[Use]] = {}
    for use in uses_of(folder.base_path):
        for version in use.served_now():
            users.setdefault(version, []).append(use)
    return users
