"""What the front has the roster tell the replicas.

That is which versions they serve, where the files of these are, and that they may leave.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from mlserve.errors import Unavailable
from mlserve_ray.connection import RayConnection
from mlserve_ray.fleet import needed_files
from mlserve_ray.reports import Report, Wishes
from mlserve_ray.rollout import Rollout
from mlserve_ray.store_watch import StoreWatch

_log = logging.getLogger(__name__)
_BRING_AGAIN_SECONDS = 10.0


class Guidance:
    """The wishes of one front, and what of them the roster knows."""

    def __init__(self, connection: RayConnection, store: StoreWatch, *, brings_files: bool) -> None:
        """`brings_files`: nodes that lack a version get it through Ray's object store."""
        self._connection = connection
        self._store = store
        self._brings_files = brings_files
        self._wishes = Wishes((), {}, {})
        self._told: Wishes | None = None
        self._brought: set[int] = set()
        self._bring_at = 0.0

    def forget_roster(self) -> None:
        """Tell everything again: the roster was started again."""
        self._told = None

    def forget_driver(self) -> None:
        """Tell and bring everything again: the driver was started again, and holds no files."""
        self._told = None
        self._brought.clear()

    def wish(self, rollout: Rollout, removed: frozenset[str]) -> None:
        """Set what is wanted: the versions of the rollout; the `removed` replicas may leave."""
        offers = dict(self._store.offers)
        self._wishes = Wishes(rollout.current.versions, rollout.by_replica, offers, removed)

    async def tell(self) -> None:
        """Tell the roster what is wanted, if it does not know it. If it is away, try later."""
        wishes = self._wishes
        if wishes == self._told:
            return
        try:
            await self._connection.ask("wish", wishes)
        except Unavailable as error:
            _log.warning("the roster does not answer: %s", error.message)
            return
        self._told = wishes

    async def bring(self, replicas: Sequence[Report]) -> None:
        """Put the versions that a node lacks into the object store."""
        if not self._brings_files or time.monotonic() < self._bring_at:
            return
        self._brought &= self._wishes.versions  # the driver has let go of the others
        for version in needed_files(replicas) - self._brought:
            if version not in self._store.offers:
                continue
            _log.info("version %d goes to the nodes that lack it", version)
            try:
                await self._connection.ask("bring", version, self._store.base_folder(version))
            except Unavailable as error:
                # The replicas that have it serve on: its folder may be gone, or the driver.
                _log.error("version %d cannot go there: %s", version, error.message)
                self._bring_at = time.monotonic() + _BRING_AGAIN_SECONDS
                return
            self._brought.add(version)
            self._told = None
