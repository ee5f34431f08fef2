"""The front's connection to Ray: a node of Ray on its machine, and the driver that speaks to it.

What has ended of the two is started again. Replicas on other machines are served meanwhile; a local
Ray takes its replicas with it, and gets new ones.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mlserve.background import run_on_daemon_thread
from mlserve.errors import PluginError, Unavailable
from mlserve_ray import cluster
from mlserve_ray.driver_process import DriverProcess, Setup
from mlserve_ray.flags import FrontOptions

_log = logging.getLogger(__name__)
_AGAIN_SECONDS = 2.0


class RayConnection:
    """The connection of the front that Ray knows as `front`; it is used on one event loop.

    `setup` is that of the driver, whose log goes into `folder`. `greet` is called with each new
    driver before it is asked for anything else.
    """

    def __init__(
        self,
        options: FrontOptions,
        setup: Setup,
        folder: Path,
        front: str,
        greet: Callable[[], Awaitable[None]],
    ) -> None:
        self._options = options
        self._setup = setup
        self._driver_log = folder / "driver.log"
        self._front = front
        self._greet = greet
        self._node: cluster.Node | None = None
        self._driver: DriverProcess | None = None

    @property
    def was_made(self) -> bool:
        """Whether there has ever been a driver."""
        return self._driver is not None

    async def start(self) -> None:
        """Start the node, or join its cluster, and connect. Raises MlserveError."""
        self._node = await self._start_node()
        await run_on_daemon_thread(cluster.wait_started, self._node)
        await self._connect(self._node)

    async def _start_node(self) -> cluster.Node:
        address = self._options.cluster.address
        if address is None:
            _log.info("starting a local Ray")
            return cluster.start_local(self._options.name)
        _log.info("joining the Ray cluster at %s", address)
        ours = await run_on_daemon_thread(cluster.own_address, address)
        return cluster.join(self._options.name, address, ours)

    async def _connect(self, node: cluster.Node) -> None:
        """Start the driver, and tell the roster what is wanted, before any replica asks."""
        self.end_driver()
        self._driver = DriverProcess(self._setup, self._driver_log)
        await self.ask("connect", node.address, str(node.temp_dir), self._front)
        await self._greet()

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call the driver. Raises MlserveError."""
        if self._driver is None:
            raise Unavailable("there is no connection to Ray", hint="see mlserve logs")
        return await run_on_daemon_thread(self._driver.call, method, *arguments)

    async def watch(self) -> None:
        """Start again what of Ray has ended here."""
        assert self._node is not None
        assert self._driver is not None
        if not self._node.has_ended and not self._driver.has_ended:
            return
        _log.error(
            "the connection to Ray is lost, and is made again: %s", self._driver.last_words()
        )
        while True:
            try:
                if self._node.has_ended:
                    await run_on_daemon_thread(self._node.stop)
                    self._node = await self._start_node()
                    await run_on_daemon_thread(cluster.wait_started, self._node)
                await self._connect(self._node)
                await self.ask("deploy_again")
            except (Unavailable, PluginError) as error:
                _log.warning("there is no connection to Ray: %s", error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                _log.info("the connection to Ray is back")
                return

    def end_driver(self) -> None:
        """End the driver at once, if there is one; Ray's replicas do not need it."""
        if self._driver is not None:
            self._driver.kill()

    def kill(self) -> None:
        """Kill Ray's processes on this machine, and remove their folder."""
        if self._node is not None:
            self._node.kill()
            shutil.rmtree(self._node.folder, ignore_errors=True)

    async def stop(self) -> None:
        """Stop the node in order."""
        if self._node is not None:
            await run_on_daemon_thread(self._node.stop)
