"""Ray Serve as its documentation shows it: a FastAPI application as the ingress of a deployment."""

# No `from __future__ import annotations`: the replicas could not resolve `Request` then.

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from fastapi import FastAPI, Request
from ray import serve


def _application(seconds: float, replicas: int) -> Any:
    app = FastAPI()

    @serve.deployment(
        num_replicas=replicas, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0.5}
    )
    @serve.ingress(app)
    class Model:
        @app.post("/predict")
        async def predict(self, request: Request) -> dict[str, str]:
            await request.body()
            await asyncio.sleep(seconds)
            return {"label": "sorrel"}

    return Model.bind()


@contextmanager
def served_by_ray_serve(address: str, seconds: float, replicas: int) -> Iterator[tuple[str, str]]:
    """Serve a model that sleeps, with one replica and with several; yield both URLs."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
        for name, count in (("one", 1), ("several", replicas)):
            serve.run(_application(seconds, count), name=name, route_prefix=f"/{name}")
        base = f"http://127.0.0.1:{port}"
        yield f"{base}/one/predict", f"{base}/several/predict"
    finally:
        serve.shutdown()
        ray.shutdown()
