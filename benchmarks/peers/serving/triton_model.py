"""The comparison's work as a model of Triton's Python backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton
import work


class TritonPythonModel:
    """One process an instance, which runs one batch at a time."""

    def initialize(self, _: dict[str, str]) -> None:
        """Load the model."""
        self.classify = work.load()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request after its work."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image = triton.get_input_tensor_by_name(request, "image").as_numpy().item()
        label, score = self.classify(image)
        outputs = [
            triton.Tensor("label", np.array([[label.encode()]], object)),
            triton.Tensor("score", np.array([[score]], np.float32)),
        ]
        return triton.InferenceResponse(outputs)
