"""A KServe server of the colour models: `serve.py HTTP_PORT GRPC_PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import colours
import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer


class Colours(Model):
    """One of `colours.MODELS`."""

    def load(self) -> bool:
        self.ready = self.name != "loading"
        return self.ready

    async def get_input_types(self) -> list[dict[str, Any]]:
        if self.name == "tensors":
            return _tensors()
        return [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    async def get_output_types(self) -> list[dict[str, Any]]:
        if self.name == "scores":
            return [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
        if self.name == "tensors":
            return _tensors()
        return [{"name": "label", "datatype": "BYTES", "shape": [-1]}]

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        await asyncio.to_thread(colours.enter, self.name)
        if self.name == "tensors":
            return InferResponse("1", self.name, [_echo(tensor) for tensor in payload.inputs])
        image = payload.inputs[0].as_numpy().ravel()[0]
        if self.name == "scores":
            found = np.array([colours.scores(image)], np.float32)
            output = InferOutput("scores", [1, 3], "FP32")
            output.set_data_from_numpy(found, binary_data=False)
        else:
            output = InferOutput("label", [1], "BYTES", data=[colours.label(image)])
        return InferResponse("1", self.name, [output])


def _tensors() -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": datatype, "shape": [-1, 2]} for name, datatype in colours.TENSORS
    ]


def _echo(given: Any) -> Any:
    output = InferOutput(given.name, given.shape, given.datatype)
    output.set_data_from_numpy(given.as_numpy(), binary_data=True)
    return output


if __name__ == "__main__":
    models = [Colours(name) for name in colours.MODELS]
    server = ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1)
    for model in models:
        model.load()
        server.register_model(model)
    server.start([model for model in models if model.ready])
