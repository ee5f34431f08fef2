"""The models of MLServer; the name of each says what it does with an image."""

from __future__ import annotations

import asyncio

import colours
import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Colours(MLModel):
    """One of `colours.MODELS`."""

    async def load(self) -> bool:
        if self.name == "loading":
            await asyncio.to_thread(colours.enter, self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await asyncio.to_thread(colours.enter, self.name)
        if self.name == "tensors":
            return self._echo(payload)
        image = Base64Codec.decode_input(payload.inputs[0])[0]
        if self.name == "scores":
            found = np.array([colours.scores(image)], np.float32)
            output = NumpyCodec.encode_output("scores", found)
        else:
            output = StringCodec.encode_output("label", [colours.label(image)])
        return InferenceResponse(model_name=self.name, model_version="1", outputs=[output])

    def _echo(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(
                name=given.name,
                shape=given.shape,
                datatype=given.datatype,
                data=given.data,
                parameters=given.parameters,
            )
            for given in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, model_version="1", outputs=outputs)
