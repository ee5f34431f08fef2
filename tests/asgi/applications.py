"""Applications with a model server mounted as the environment's MOUNT says, a JSON object.

app      started and stopped by its lifespan; also tells its process, and asks without HTTP
bare     has no lifespan
serving  the model server alone
"""

from __future__ import annotations

import json
import os
from functools import partial

import anyio.from_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import mlserve.server

PHOTO = b"\xff\xd8\xff a photo"
serving = mlserve.server.mount(**json.loads(os.environ["MOUNT"]))


async def process(request: Request) -> JSONResponse:
    return JSONResponse(os.getpid())


async def direct(request: Request) -> JSONResponse:
    answer = await serving.predict(await request.body(), timeout=5)
    return JSONResponse({"label": answer.label, "version": answer.version})


def blocking(request: Request) -> JSONResponse:
    """Runs on a thread, as Starlette runs every handler that is not `async`."""
    answer = anyio.from_thread.run(partial(serving.predict, PHOTO, timeout=5))
    return JSONResponse({"label": answer.label, "version": answer.version})


mounted = Mount("/ml", serving)
own = [
    Route("/process", process),
    Route("/direct", direct, methods=["POST"]),
    Route("/blocking", blocking),
]
app = Starlette(routes=[*own, mounted], lifespan=serving.lifespan)
bare = Starlette(routes=[mounted])
