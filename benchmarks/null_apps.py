"""What mlserve is compared with in `null_request.py`: a FastAPI endpoint, and uvicorn alone.

uvicorn null_apps:fastapi_app
uvicorn null_apps:bare_app
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, FastAPI

fastapi_app = FastAPI()


@fastapi_app.post("/predict")
def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, str]:  # noqa: ARG001
    """Return the same label for every image."""
    return {"label": "sorrel"}


async def bare_app(_: Any, receive: Any, send: Any) -> None:
    """Read the body, and answer the same label, without any framework."""
    while (await receive()).get("more_body"):
        pass
    answer = b'{"label":"sorrel"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
