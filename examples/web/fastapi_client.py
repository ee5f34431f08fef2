"""Ask a model server from a FastAPI handler, within the time that the caller has.

mlserve up --backend onnxruntime
uvicorn fastapi_client:app
curl --data-binary @horse.jpg -H 'X-Request-Timeout-Ms: 800' http://127.0.0.1:8000/inspect
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse

from mlserve import AsyncClient, Deadline, DeadlineExceeded, InvalidInput, MlserveError, Transient
from mlserve.wire.status import http_status, retry_headers


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share one client, and its connection, among all requests."""
    async with AsyncClient(os.environ.get("MODEL_SERVER", "127.0.0.1:8500")) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/inspect")
async def inspect(
    request: Request, x_request_timeout_ms: Annotated[int, Header(gt=0, le=600_000)] = 5000
) -> dict[str, object]:
    """Return the label of the image in the body. The time counts from here, the upload included."""
    deadline = Deadline.after(x_request_timeout_ms / 1000)
    try:
        async with asyncio.timeout(deadline.remaining()):
            image = await request.body()
    except TimeoutError:
        raise deadline.exceeded("the image was on its way") from None
    answer = await request.app.state.client.predict(image, timeout=deadline)
    return {"label": answer.label, "scores": {s.label: s.score for s in answer.scores}}


async def refuse(request: Request, error: MlserveError) -> JSONResponse:
    """Answer 504 (no time left), 429 or 503 (come back later), or 400 (a bad image)."""
    return JSONResponse({"error": error.message}, http_status(error), retry_headers(error))


# Any other error, such as a model that is not there, is no fault of the caller: a 500.
for kind in (DeadlineExceeded, Transient, InvalidInput):
    app.add_exception_handler(kind, refuse)
