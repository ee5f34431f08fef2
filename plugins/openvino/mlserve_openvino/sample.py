"""An IR for the conformance suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13


def write_sample(file: Path) -> None:
    """Write the model: numbers `x` [N, 2] to `y`, and `flags` [N] as they are."""
    x = opset13.parameter(ov.PartialShape([-1, 2]), ov.Type.f32, name="x")
    flags = opset13.parameter(ov.PartialShape([-1]), ov.Type.boolean, name="flags")
    y = opset13.multiply(x, np.float32(0.5))
    same = opset13.logical_or(flags, flags)
    for node, name in ((x, "x"), (flags, "flags"), (y, "y"), (same, "same")):
        node.output(0).set_names({name})
    results = [opset13.result(y), opset13.result(same)]
    ov.save_model(ov.Model(results, [x, flags], "sample"), file, compress_to_fp16=False)
