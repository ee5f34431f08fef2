"""A model server mounted in an application that does nothing else, run by uvicorn.

`mounted.py` asks it. MODEL_PATH is the folder of the model.

    MODEL_PATH=folder uvicorn mounted_app:app
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import mlserve.server

serving = mlserve.server.mount(path=os.environ["MODEL_PATH"])


async def direct(request: Request) -> JSONResponse:
    """Run the model without a second HTTP request, on the inputs in the body."""
    inputs = (await request.json())["inputs"]
    outputs = await serving.infer({"x": inputs}, timeout=10)
    return JSONResponse({"outputs": outputs["sum"].tolist()})


routes = [Route("/direct", direct, methods=["POST"]), Mount("/ml", serving)]
app = Starlette(routes=routes, lifespan=serving.lifespan)
