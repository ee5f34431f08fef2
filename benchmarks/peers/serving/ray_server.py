"""The comparison's work behind Ray Serve: `ray_server.py PORT REPLICAS CPUS`.

Its work blocks, so it runs on a thread, as Ray Serve's best practices for asyncio say.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import ray
import work
from ray import serve
from starlette.requests import Request


@serve.deployment
class Work:
    """One model a replica."""

    def __init__(self) -> None:
        self.classify = work.load()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer with the label of the image in the body."""
        image = await request.body()
        return work.answer(*await asyncio.to_thread(self.classify, image))


if __name__ == "__main__":
    port, replicas, cpus = map(int, sys.argv[1:])
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = {"num_cpus": cpus // replicas}
    serve.run(
        Work.options(
            num_replicas=replicas, max_ongoing_requests=100, ray_actor_options=options
        ).bind(),
        route_prefix="/predict",
    )
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
