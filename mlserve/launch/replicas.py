"""What a recorded server of several replicas says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve.errors import MlserveError, Unavailable
from mlserve.launch.access import tls_of, token_of
from mlserve.launch.records import ServerRecord

if TYPE_CHECKING:
    from mlserve.wire.replicas import ReplicaSet

_SOON = 1.0


def replicas_if_told(record: ServerRecord) -> ReplicaSet | None:
    """Return the replicas; None for a server that is one process, or does not say so soon."""
    if not record.traits.has_replicas:
        return None
    try:
        return replicas_of(record, _SOON)
    except MlserveError:  # `mlserve status` says why
        return None


def replicas_of(record: ServerRecord, timeout: float) -> ReplicaSet:
    """Ask the server once, on its REST port. `timeout` is in seconds.

    Raises Unavailable if it does not tell, and the errors of any call.
    """
    from mlserve.client import Client
    from mlserve.client.retries import ONCE

    with Client(
        record.rest_endpoint,
        token=token_of(record),
        tls=tls_of(record),
        retries=ONCE,
        throttle=False,
    ) as client:
        found = client.replicas(timeout=timeout)
    if found is None:
        raise Unavailable(
            f"{record.name} does not tell of its replicas",
            hint=f"see why: mlserve logs {record.name}",
        )
    return found
