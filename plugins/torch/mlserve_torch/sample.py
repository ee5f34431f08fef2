"""A program for the conformance suite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


class _Half(nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor, flags: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x * 0.5, "same": flags.clone()}


def write_sample(file: Path) -> None:
    """Write the program: numbers `x` [N, 2] to `y`, and `flags` [N] as they are."""
    rows = {0: torch.export.Dim("rows")}
    inputs = (torch.ones(2, 2), torch.ones(2, dtype=torch.bool))
    program = torch.export.export(_Half(), inputs, dynamic_shapes={"x": rows, "flags": rows})
    torch.export.save(program, file)
