"""Envoy's own interface, on a UNIX socket in its folder: its counters, its replicas, its drain."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from mlserve.errors import Unavailable

_TIMEOUT = 5.0


class _UnixConnection(HTTPConnection):
    """HTTP over a socket of that folder, however long the folder's path is."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__("ingress", timeout=_TIMEOUT)
        self._folder, self._name = folder, name

    def connect(self) -> None:
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_TIMEOUT)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._name}")
        finally:
            os.close(folder)


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as Envoy sees it: its address, and whether it answers its health checks.

    One that is silent has not answered within the check's time.
    """

    host: str
    port: int
    is_ready: bool
    is_silent: bool
    active: int


class Admin:
    """Asks the Envoy with that socket in `folder`. All raise Unavailable if it does not answer."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def get(self, path: str) -> bytes:
        """Return what a page holds."""
        return self._ask("GET", path)

    def post(self, path: str) -> None:
        """Have something done."""
        self._ask("POST", path)

    def is_ready(self) -> bool:
        """Return whether Envoy has read all of its configuration."""
        return self._ask("GET", "/ready", any_status=True).strip() == b"LIVE"

    def ports(self) -> Mapping[str, int]:
        """Return the ports that it listens on, by name."""
        found = json.loads(self.get("/listeners?format=json")).get("listener_statuses", [])
        ports = {one["name"]: one["local_address"]["socket_address"] for one in found}
        return {name: address["port_value"] for name, address in ports.items()}

    def counters(self, pattern: str) -> Mapping[str, int]:
        """Return the counters and gauges whose names match, by name."""
        page: Any = json.loads(self.get(f"/stats?format=json&filter={pattern}"))
        return {one["name"]: one["value"] for one in page["stats"] if "name" in one}

    def buckets(self, pattern: str) -> Mapping[str, Mapping[float, int]]:
        """Return how many values of each histogram were at most so large, since the start."""
        query = f"/stats?format=json&histogram_buckets=cumulative&usedonly&filter={pattern}"
        page: Any = json.loads(self.get(query))
        found: dict[str, Mapping[float, int]] = {}
        for one in page["stats"]:
            for histogram in one.get("histograms", ()):
                rows = histogram["buckets"]
                found[histogram["name"]] = {row["upper_bound"]: row["cumulative"] for row in rows}
        return found

    def replicas(self, protocol: str) -> list[Replica]:
        """Return the replicas as they are asked over that protocol."""
        page: Any = json.loads(self.get(f"/clusters?format=json&filter=^{protocol}$"))
        [cluster] = [one for one in page["cluster_statuses"] if one["name"] == protocol]
        return [_replica(one) for one in cluster.get("host_statuses", ())]

    def _ask(self, method: str, path: str, *, any_status: bool = False) -> bytes:
        connection = _UnixConnection(self._folder, self._name)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            raise Unavailable(f"the ingress (Envoy) does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200 and not any_status:  # noqa: PLR2004 - HTTP's OK
            said = content[:200].decode(errors="replace")
            raise Unavailable(f"the ingress (Envoy) answers {path} with {answer.status}: {said}")
        return content


def _replica(status: Any) -> Replica:
    address, health = status["address"]["socket_address"], status["health_status"]
    stats = {one["name"]: int(one.get("value", 0)) for one in status.get("stats", ())}
    return Replica(
        address["address"],
        address["port_value"],
        is_ready=health.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")
        and not health.get("failed_active_health_check", False),
        is_silent=health.get("failed_active_health_check", False)
        and health.get("active_hc_timeout", False),
        active=stats.get("rq_active", 0),
    )
