"""The usual server of an ONNX image classifier: FastAPI, a sync endpoint, one session, Pillow.

`overload/usual.py` runs it beside mlserve's. MODEL_FILE is the ONNX file.

    MODEL_FILE=model.onnx uvicorn usual_server:app [--limit-concurrency N]
"""

from __future__ import annotations

import io
import os
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import Body, FastAPI
from PIL import Image

session = onnxruntime.InferenceSession(os.environ["MODEL_FILE"])
model_input = session.get_inputs()[0]
app = FastAPI()


@app.post("/predict")
def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, int]:
    """Return the class of the image in the body."""
    _, height, width, _ = model_input.shape
    pixels = Image.open(io.BytesIO(image)).convert("RGB").resize((width, height))
    batch = np.asarray(pixels, np.float32)[np.newaxis] / 255
    (scores,) = session.run(None, {model_input.name: batch})
    return {"class": int(scores[0].argmax())}
