"""Ray, as the driver process uses it (`driver_process`). Every method blocks.

This is the module that imports Ray for the driver.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import ray

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable, UsageError, bounded
from mlserve_ray import application
from mlserve_ray.artifacts import chunks_of
from mlserve_ray.cluster import other_versions
from mlserve_ray.replica import ReplicaPlan
from mlserve_ray.reports import Snapshot, Wishes
from mlserve_ray.room import NodeRoom, require_room
from mlserve_ray.roster import NAMESPACE

_CALL_SECONDS = 10.0
_START_SECONDS = 60.0
_ROOM_SECONDS = 5.0
_PAUSE = 0.5


class RayDriver:
    """The connection to a cluster, and the application there."""

    def __init__(self, plan: ReplicaPlan, options: ClusterOptions, downscale_delay: float) -> None:
        self._plan = plan
        self._options = options
        self._downscale_delay = downscale_delay
        self._serve = threading.Lock()  # its client is not made for several threads
        self._roster: Any = None
        self._has_taken = self._has_deployed = False
        self._chunks: dict[int, Mapping[str, tuple[Any, ...]]] = {}

    def connect(self, address: str, folder: str, front: str) -> None:
        """Connect to the cluster, through the node of the front, which has that folder.

        Raises PluginError for other versions there, Unavailable if it cannot be reached, and
        UsageError if a front of that name runs there.
        """
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        except Exception as error:
            if "ersion mismatch" in str(error):
                raise other_versions(address, str(error)) from error
            raise Unavailable(
                f"the Ray cluster at {address} cannot be used: {bounded(str(error))}",
                hint="see whether it runs, and whether it wants a token (RAY_AUTH_TOKEN)",
            ) from error
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._roster = application.start_roster(self._plan.server)
        other = ray.get(self._roster.take.remote(front), timeout=_START_SECONDS)
        if other and _is_dead(other, front):
            other = ray.get(self._roster.take.remote(front, other), timeout=_CALL_SECONDS)
        if other:
            raise UsageError(
                f"a server named {self._plan.server} runs in that cluster, started on {other}",
                hint=f"stop it there: mlserve down {self._plan.server}",
            )
        self._has_taken = True

    def end_orphans(self) -> None:
        """End the replicas of a front that was killed; not for one that connects again."""
        with self._serve:
            application.end_orphans(self._plan.server)

    def require_room(self) -> None:
        """Raise Unavailable if the cluster has no room for the replicas.

        What has just ended still counts for a moment, so it is asked more than once.
        """
        give_up = time.monotonic() + _ROOM_SECONDS
        while True:
            try:
                require_room(self._rooms(), self._options)
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def deploy(self) -> None:
        """Have the replicas placed, in place of any that run; return at once."""
        with self._serve:
            self._has_deployed = True
            application.deploy(self._plan, self._options, self._downscale_delay)

    def deploy_again(self) -> None:
        """Have the replicas placed, unless the cluster has kept them."""
        with self._serve:
            self._has_deployed = True
            if not application.is_deployed(self._plan.server):
                application.deploy(self._plan, self._options, self._downscale_delay)

    def _rooms(self) -> list[NodeRoom]:
        """Return what each node has, and what of the whole cluster is free."""
        free = ray.available_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return [NodeRoom(node["NodeManagerAddress"], node["Resources"], free) for node in nodes]

    def watch(self, front: str, after: int, timeout: float) -> Snapshot:
        """Return what the roster knows, once that has changed. Raises what Ray raises."""
        asked = self._roster.watch.remote(front, after, timeout)
        snapshot: Snapshot = ray.get(asked, timeout=timeout + _CALL_SECONDS)
        return snapshot

    def wish(self, wishes: Wishes) -> None:
        """Tell the roster what is wanted. Raises what Ray raises."""
        # What nobody is to serve any more need not stay in the object store.
        self._chunks = {v: kept for v, kept in self._chunks.items() if v in wishes.versions}
        offers = {
            version: replace(offer, chunks=self._chunks.get(version))
            for version, offer in wishes.offers.items()
        }
        ray.get(self._roster.wish.remote(replace(wishes, offers=offers)), timeout=_CALL_SECONDS)

    def bring(self, version: int, folder: str) -> None:
        """Put the files of a version into the object store, for the nodes that lack them."""
        self._chunks[version] = chunks_of(Path(folder), ray.put)

    def wanted_replicas(self) -> int | None:
        """Return how many replicas Ray Serve wants; None if it does not say."""
        with self._serve:
            return application.wanted_replicas(self._plan.server)

    def trouble(self) -> str:
        """Return what Ray Serve says is wrong; empty if nothing."""
        with self._serve:
            return application.trouble(self._plan.server)

    def begin_end(self) -> None:
        """Have Ray Serve end the replicas, each after its drain; return at once."""
        with self._serve:
            if self._has_deployed:
                application.delete(self._plan.server)

    def end(self) -> None:
        """End the roster, unless it is another front's."""
        if self._has_taken:
            ray.kill(self._roster)


def _is_dead(other: str, front: str) -> bool:
    """Return whether the other front, `host:pid`, ran on this machine and has ended."""
    host, _, pid = other.rpartition(":")
    return host == front.rpartition(":")[0] and not psutil.pid_exists(int(pid))
