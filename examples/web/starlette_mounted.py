"""Serve a model inside a Starlette application that has a lifespan of its own.

mlserve export --backend onnxruntime --model efficientnet_lite0
uvicorn starlette_mounted:app
curl http://127.0.0.1:8000/health
curl --data-binary @horse.jpg http://127.0.0.1:8000/ml/v1/models/efficientnet_lite0:predict
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import mlserve.server

serving = mlserve.server.mount(os.environ.get("MODEL", "efficientnet_lite0"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the model before the first request; finish the last ones before the application ends."""
    async with serving:
        yield


async def health(request: Request) -> JSONResponse:
    """Answer 200 while a request about the model would be served, else 503."""
    return JSONResponse({"ready": serving.is_ready}, 200 if serving.is_ready else 503)


app = Starlette(routes=[Route("/health", health), Mount("/ml", serving)], lifespan=lifespan)
