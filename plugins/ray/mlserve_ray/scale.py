"""How many replicas Ray Serve wants, and whether Ray has room for as many."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from mlserve.errors import Unavailable, bounded
from mlserve_ray.connection import RayConnection
from mlserve_ray.fleet import Fleet

_log = logging.getLogger(__name__)
_PLACED_WITHIN = 30.0
"""Seconds after which it is said that a replica is not placed yet."""


class ScaleWatch:
    """The number of replicas that are wanted: at first the least one."""

    def __init__(self, connection: RayConnection, fleet: Fleet, least: int) -> None:
        self._connection = connection
        self._fleet = fleet
        self._placed_by = 0.0
        self.wanted = least

    def begin(self) -> None:
        """Give the replicas time from now on to be placed."""
        self._placed_by = time.monotonic() + _PLACED_WITHIN

    async def look(self) -> None:
        """See how many are wanted, and say once if they are not there for long.

        Raises Unavailable if none was ever ready and Ray says why.
        """
        found: int | None = await self._ask_softly("wanted_replicas")
        if found is not None:
            self.wanted = found
        here = len(self._fleet.replicas)
        if found is None or here >= found:
            self.begin()
        elif time.monotonic() > self._placed_by:
            self._placed_by = float("inf")
            await self._tell_of_trouble(here)

    async def _tell_of_trouble(self, here: int) -> None:
        reason = await self._ask_softly("trouble")
        _log.warning(
            "%d of %d replicas run: Ray has no room for more, or their nodes lack a package%s",
            *(here, self.wanted, f": {bounded(reason)}" if reason else ""),
        )
        if reason and not self._fleet.was_ready:
            raise Unavailable(
                f"no replica gets ready: {bounded(reason)}",
                hint="every node needs the same Python, with mlserve-ray and the backend",
            )

    async def _ask_softly(self, method: str) -> Any:
        """Call the driver; None while Ray does not answer."""
        with suppress(Unavailable):
            return await self._connection.ask(method)
        return None
