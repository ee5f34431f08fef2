"""A `mlserve_torch.graphs.Capture` on the CPU: the logic of graphs without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mlserve_torch.graphs import Replay

Tensors = Sequence[torch.Tensor]


class EagerCapture:
    """Repeats a run operation by operation."""

    def on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def wait(self) -> None:
        """Do nothing: the CPU has done its work already."""

    def host_memory(self, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(like.shape, dtype=like.dtype)

    def capture(self, call: Callable[[Tensors], list[torch.Tensor]], inputs: Tensors) -> Replay:
        outputs = [output.clone() for output in call(inputs)]

        def play() -> None:
            for output, new in zip(outputs, call(inputs), strict=True):
                output.copy_(new)

        return Replay(inputs, outputs, play)
