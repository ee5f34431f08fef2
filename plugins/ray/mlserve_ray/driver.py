"""Ray, as the front uses it. Every method blocks, and may be called on any thread.

This is the module of the front that imports Ray, and it is imported once the environment says
which cluster is meant.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray import serve

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable, UsageError, bounded
from mlserve_ray import application
from mlserve_ray.cluster import Node, other_versions
from mlserve_ray.replica import ReplicaPlan
from mlserve_ray.reports import Snapshot, Wishes
from mlserve_ray.room import NodeRoom, require_room
from mlserve_ray.roster import NAMESPACE

T = TypeVar("T")
_CALL_SECONDS = 10.0


class RayDriver:
    """The connection to a cluster, and the application there."""

    def __init__(self, plan: ReplicaPlan, options: ClusterOptions, downscale_delay: float) -> None:
        self._plan = plan
        self._options = options
        self._downscale_delay = downscale_delay
        self._front = f"{socket.gethostname()} (pid {os.getpid()})"
        self._roster: Any = None
        self._is_taken = False
        self._calls = 0
        self._is_closed = False
        self._change = threading.Condition()

    def _ask(self, call: Callable[[], T]) -> T:
        """Return what a call to Ray returns. Raises Unavailable for whatever it raises.

        Ray ends the whole process if the connection is used after its end, be it by a reference in
        the traceback of an error that Python forgets later. So no error of Ray leaves here.
        """
        with self._change:
            if self._is_closed:
                raise Unavailable("the connection to Ray is closed", hint="the server is stopping")
            self._calls += 1
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - of many kinds, also while Ray's parts restart
            reason = bounded(str(error))
        finally:
            with self._change:
                self._calls -= 1
                self._change.notify_all()
        raise Unavailable(reason, hint="see mlserve logs")

    def connect(self, node: Node) -> None:
        """Connect to the cluster, through the node that this process has started.

        Raises PluginError for other versions there, Unavailable if it cannot be reached, and
        UsageError if a front of that name runs there.
        """
        try:
            ray.init(
                address=node.address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
                _temp_dir=str(node.folder),
            )
        except Exception as error:
            if "ersion mismatch" in str(error):
                raise other_versions(node.address, str(error)) from error
            raise Unavailable(
                f"the Ray cluster at {node.address} cannot be used: {bounded(str(error))}",
                hint="see whether it runs, and whether it wants a token (RAY_AUTH_TOKEN)",
            ) from error
        for name in ("ray", "ray.serve"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.ERROR)
        self._take_roster()

    def _take_roster(self) -> None:
        self._roster = application.start_roster(self._plan.server)
        other = ray.get(self._roster.take.remote(self._front), timeout=60)
        if other:
            raise UsageError(
                f"a server named {self._plan.server} runs in that cluster, started on {other}",
                hint=f"stop it there: mlserve down {self._plan.server}",
            )
        self._is_taken = True

    def deploy(self) -> None:
        """Have the replicas placed; return at once. Raises Unavailable if there is no room."""
        options = self._options
        require_room(self._rooms(), options)
        application.deploy(self._plan, options, self._downscale_delay)

    def _rooms(self) -> list[NodeRoom]:
        """Return what each node has, and what of the whole cluster is free."""
        free = ray.available_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return [NodeRoom(node["NodeManagerAddress"], node["Resources"], free) for node in nodes]

    def watch(self, after: int, timeout: float) -> Snapshot:
        """Return what the roster knows, once that has changed. Raises Unavailable."""
        front, seconds = self._front, timeout + _CALL_SECONDS
        snapshot: Snapshot = self._ask(
            lambda: ray.get(self._roster.watch.remote(front, after, timeout), timeout=seconds)
        )
        return snapshot

    def wish(self, wishes: Wishes) -> None:
        """Tell the roster what is wanted. Raises Unavailable."""
        self._ask(lambda: ray.get(self._roster.wish.remote(wishes), timeout=_CALL_SECONDS))

    def put(self, data: bytes) -> Any:
        """Keep bytes in the object store; return a reference. Raises Unavailable."""
        return self._ask(lambda: ray.put(data))

    def wanted_replicas(self) -> int | None:
        """Return how many replicas Ray Serve wants; None if it does not say now."""
        with suppress(Unavailable):
            return self._ask(lambda: application.wanted_replicas(self._plan.server))
        return None

    def trouble(self) -> str:
        """Return what Ray Serve says is wrong; empty if nothing, or if it does not answer."""
        with suppress(Unavailable):
            return self._ask(lambda: application.trouble(self._plan.server))
        return ""

    def end(self) -> None:
        """End the replicas, each after its drain, and the roster; disconnect."""
        try:
            if self._is_taken:
                application.delete(self._plan.server)
        finally:
            self._close()

    def _close(self) -> None:
        with self._change:
            self._is_closed = True
            self._change.wait_for(lambda: not self._calls, timeout=2 * _CALL_SECONDS)
        if self._is_taken:
            ray.kill(self._roster)
        self._roster = None
        serve.context._set_global_client(None)  # noqa: SLF001 - it holds on to the connection
        gc.collect()
        ray.shutdown()
