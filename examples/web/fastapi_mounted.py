"""Serve a model inside a FastAPI application: over its own REST API, and to its handlers.

mlserve export --backend onnxruntime --model efficientnet_lite0
uvicorn fastapi_mounted:app
curl --data-binary @horse.jpg http://127.0.0.1:8000/inspect
curl --data-binary @horse.jpg http://127.0.0.1:8000/ml/v1/models/efficientnet_lite0:predict
"""

import os
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse

import mlserve.server
from mlserve import DeadlineExceeded, InvalidInput, MlserveError, Transient
from mlserve.wire.status import http_status, retry_headers

serving = mlserve.server.mount(os.environ.get("MODEL", "efficientnet_lite0"))
app = FastAPI(lifespan=serving.lifespan)
app.mount("/ml", serving)


@app.post("/inspect")
async def inspect(
    request: Request, x_request_timeout_ms: Annotated[int, Header(gt=0, le=600_000)] = 5000
) -> dict[str, object]:
    """Return the label of the image in the body, asked in this process."""
    image = await request.body()
    answer = await serving.predict(image, timeout=x_request_timeout_ms / 1000)
    return {"label": answer.label, "scores": {s.label: s.score for s in answer.scores}}


async def refuse(request: Request, error: MlserveError) -> JSONResponse:
    """Answer 504 (no time left), 429 or 503 (come back later), or 400 (a bad image)."""
    return JSONResponse({"error": error.message}, http_status(error), retry_headers(error))


for kind in (DeadlineExceeded, Transient, InvalidInput):
    app.add_exception_handler(kind, refuse)
