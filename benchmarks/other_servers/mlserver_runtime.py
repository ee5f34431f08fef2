"""`work` as an MLServer runtime."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from work import work


class Work(MLModel):
    """Works inside `predict`, as MLServer's own runtimes do."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer after the work."""
        output = StringCodec.encode_output("label", [work()])
        return InferenceResponse(model_name=self.name, outputs=[output])
