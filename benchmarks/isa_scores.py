"""Write the scores of one model file for prepared pixels, in a process of their own: see isa.py.

Needs numpy and the runtime only, so that it runs under an emulated CPU of another architecture too.

    python benchmarks/isa_scores.py RUNTIME PRECISION MODEL PIXELS.npy SCORES.npy
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DEFAULT_INT8 = "int8, its defaults"
"""A file in int8, in ONNX Runtime with its default options."""
Forward = Callable[[Array], Array]


def onnxruntime_forward(model: str, precision: str) -> Forward:
    """Return the model in ONNX Runtime. bf16 is its way of multiplying fp32, where it has that."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if precision == "bf16":
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    if precision != DEFAULT_INT8:  # as mlserve opens it
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return lambda pixels: np.asarray(session.run(None, {image.name: pixels})[0])


def openvino_forward(model: str, precision: str) -> Forward:
    """Return the model in OpenVINO, which else takes bf16 by itself where the CPU has it."""
    import openvino as ov

    hint = {"bf16": "bf16"}.get(precision, "f32")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda pixels: np.asarray(compiled(pixels)[0])


def torch_forward(model: str, precision: str) -> Forward:
    """Return the program in PyTorch."""
    import torch

    module = torch.export.load(model).module()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def forward(pixels: Array) -> Array:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(pixels).to(kind))
        return np.asarray(outputs.float().numpy())

    return forward


def tensorflow_forward(model: str, _: str) -> Forward:
    """Return the SavedModel's own function of pixels in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(model)
    return lambda pixels: np.asarray(loaded.pixels(tf.constant(pixels)))


FORWARDS: dict[str, Callable[[str, str], Forward]] = {
    "onnxruntime": onnxruntime_forward,
    "openvino": openvino_forward,
    "tfserving": tensorflow_forward,
    "torch": torch_forward,
}


def main() -> None:
    """Run the model on each image by itself, as a server does for one client."""
    runtime, precision, model, pixels, scores = sys.argv[1:]
    forward = FORWARDS[runtime](model, precision)
    outputs = np.concatenate([forward(image[np.newaxis]) for image in np.load(pixels)])
    np.save(scores, outputs.astype(np.float32))


if __name__ == "__main__":
    main()
