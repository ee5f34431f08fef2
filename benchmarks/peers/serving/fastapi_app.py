"""The comparison's work behind FastAPI: a sync endpoint, which runs on Starlette's thread pool."""

from __future__ import annotations

from typing import Annotated, Any

import work
from fastapi import Body, FastAPI

classify = work.load()
app = FastAPI()


@app.post("/predict")
def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    """Answer with the label of the image in the body."""
    return work.answer(*classify(image))
