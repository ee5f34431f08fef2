"""A model of Triton's Python backend; its name says what it does with an image."""

from __future__ import annotations

from typing import Any

import colours
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One of `colours.MODELS`."""

    def initialize(self, args: dict[str, str]) -> None:
        self._name = args["model_name"]
        if self._name == "loading":
            colours.enter(self._name)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        colours.enter(self._name)
        if self._name == "tensors":
            return triton.InferenceResponse([_echo(request, name) for name, _ in colours.TENSORS])
        images = triton.get_input_tensor_by_name(request, "image").as_numpy().ravel()
        return triton.InferenceResponse([triton.Tensor(*self._output(images))])

    def _output(self, images: Any) -> tuple[str, Any]:
        if self._name == "scores":
            return "scores", np.array([colours.scores(image) for image in images], np.float32)
        labels = [[colours.label(image).encode()] for image in images]
        return "label", np.array(labels, object)


def _echo(request: Any, name: str) -> Any:
    return triton.Tensor(name, triton.get_input_tensor_by_name(request, name).as_numpy())
