"""Rewrite a `torch.export` program with weights and arithmetic in bf16 or fp16."""

from __future__ import annotations

import inspect
import warnings
from inspect import Parameter
from pathlib import Path
from typing import Any

import torch

from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.precision import Precision
from mlserve.probe import Trial, tried
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve_torch.archive import FileKind, kind_of
from mlserve_torch.device import CPU
from mlserve_torch.program import Program, opened, to_torch

_DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_HINT = "leave --precision out"


class _Half(torch.nn.Module):  # type: ignore[misc]  # torch gives it no type
    """A program with its fp32 numbers in another type; inputs and outputs stay in fp32."""

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        super().__init__()
        if program.graph_module is None:
            raise ValueError("TorchScript has no weights to rewrite")
        self.module = program.graph_module.to(dtype)
        parameters = [Parameter(s.name, Parameter.POSITIONAL_ONLY) for s in program.inputs]

        def forward(*tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            halves = [t.to(dtype) if t.dtype is torch.float32 else t for t in tensors]
            return {
                spec.name: output.to(torch.float32) if output.dtype is dtype else output
                for spec, output in zip(program.outputs, program.call(halves), strict=True)
            }

        # torch.export names the inputs of the new program by it.
        setattr(forward, "__signature__", inspect.Signature(parameters))  # noqa: B010
        self.forward = forward


def require_device(precision: Precision) -> None:
    """Raise ExportError for fp16 on a machine without a GPU."""
    if precision is Precision.FP16 and not torch.cuda.is_available():
        raise ExportError(
            "PyTorch computes fp16 on a CPU without its own instructions for it several times "
            "slower than fp32, and this machine has no GPU that PyTorch can use",
            hint="export on the machine that has the GPU, or take --precision bf16",
        )


def rewrite(name: str, file: Path, precision: Precision) -> None:
    """Rewrite the model of that name in `file`, a program that its source has checked.

    Raises ExportError for TorchScript, and for a program that cannot be computed in `precision`.
    """
    if kind_of(file) is not FileKind.PROGRAM:
        raise ExportError(
            f"the model {name} is TorchScript, whose arithmetic cannot be changed to {precision}",
            hint=f"save it with torch.export.save, or {_HINT}",
        )
    program = opened(file, torch.device(CPU))
    signature = Signature(DEFAULT_SIGNATURE, program.inputs, program.outputs)
    trial = tried(signature, program.answers)
    if isinstance(trial, str):
        raise ExportError(f"the model {name} refuses made-up inputs: {trial}", hint=_HINT)
    half = _Half(program, _DTYPES[precision])
    inputs = tuple(to_torch(trial.inputs[spec.name]) for spec in program.inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(half, inputs, dynamic_shapes=_open_sizes(program))
        torch.export.save(exported, file)
    except Exception as error:  # the exporter has no common error
        raise ExportError(
            f"the model {name} cannot be computed in {precision}: {reason_of(error)}", hint=_HINT
        ) from error
    _check(name, opened(file, torch.device(CPU)), program, trial, precision)


def _open_sizes(program: Program) -> tuple[dict[int, Any], ...]:
    """Return the axes of each input that the program leaves open."""
    auto = torch.export.Dim.AUTO
    return tuple(
        {axis: auto for axis, size in enumerate(spec.shape or ()) if size is None}
        for spec in program.inputs
    )


def _check(
    name: str, found: Program, original: Program, trial: Trial, precision: Precision
) -> None:
    """Raise ExportError unless what was written has the original's signature, and runs."""
    theirs, ours = (*original.inputs, *original.outputs), (*found.inputs, *found.outputs)
    if theirs != ours:
        raise ExportError(
            f"rewritten in {precision}, {name} has {', '.join(map(str, ours))} in place of "
            f"{', '.join(map(str, theirs))}",
            hint=_HINT,
        )
    try:
        answers = found.answers(trial.inputs)
    except InvalidInput as error:
        raise ExportError(
            f"rewritten in {precision}, {name} does not run: {error.message}", hint=_HINT
        ) from error
    for output, array in answers.items():
        tensor = to_torch(array)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ExportError(
                f"the output {output} of {name} is not finite in {precision}", hint=_HINT
            )
