"""A stand-in: see backend.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlserve.deadline import Deadline
from mlserve.errors import ModelLoadFailed
from mlserve.tensors import DType, Signature, TensorSpec


class TorchRunner:
    def __init__(self, path: Path) -> None:
        try:
            self._module = torch.export.load(str(path)).module()
        except Exception as error:
            raise ModelLoadFailed(f"{path} is not a torch.export program: {error}") from error
        x = TensorSpec("x", DType.FLOAT32, (None, 4))
        y = TensorSpec("y", DType.FLOAT32, (None, 3))
        self.signatures = {"serving_default": Signature("serving_default", (x,), (y,))}

    def run(self, signature: str, inputs: Any, deadline: Deadline | None = None) -> Any:
        with torch.inference_mode():
            return {"y": self._module(torch.from_numpy(np.array(inputs["x"]))).numpy()}

    def close(self) -> None:
        pass
