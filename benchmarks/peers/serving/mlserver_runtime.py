"""The comparison's work as an MLServer runtime."""

from __future__ import annotations

import numpy as np
import work
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Work(MLModel):
    """Works inside `predict`, as MLServer's own runtimes do."""

    async def load(self) -> bool:
        """Load the model."""
        self.classify = work.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer after the work."""
        (image,) = self.decode(payload.inputs[0])
        label, score = self.classify(image)
        outputs = [
            StringCodec.encode_output("label", [label]),
            NumpyCodec.encode_output("score", np.array([score], np.float32)),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
