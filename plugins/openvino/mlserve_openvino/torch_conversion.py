"""Convert a `torch.export` program."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlserve.differences import Arrays
from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.sources import Classifier, Model
from mlserve.tensors import DType, TensorSpec
from mlserve_openvino.original import Original, converted, scores_spec


def of_torch(model: Model) -> Original:
    """Convert the program in the model's file. Raises ExportError, also for TorchScript."""
    if model.details.get("format") == "TorchScript":
        raise ExportError(
            f"the model {model.name} is TorchScript, whose inputs have no types or sizes that "
            "OpenVINO could convert",
            hint="save it with torch.export.save, or export it for --backend torch",
        )
    if isinstance(model, Classifier):
        path = model.forward
        inputs = tuple(TensorSpec.from_json(spec) for spec in model.details["inputs"])
        outputs: tuple[TensorSpec, ...] = (scores_spec(model),)
    else:
        path = model.content
        inputs, outputs = model.signatures[0].inputs, model.signatures[0].outputs
    for spec in (*inputs, *outputs):
        if spec.dtype is DType.BFLOAT16:
            raise ExportError(
                f"the model {model.name} has {spec}: OpenVINO exchanges no bfloat16",
                hint="export it for --backend torch, or convert it inside the model",
            )
    program = _loaded(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how OpenVINO uses torch
        found = converted(model, program, inputs, outputs)
    module = program.module()
    return Original("PyTorch", found, lambda arrays: _run(program, module, inputs, outputs, arrays))


def _loaded(path: Any) -> Any:
    try:
        return torch.export.load(path)  # its source has looked for code in it
    except (RuntimeError, AssertionError) as error:
        raise ExportError(
            f"PyTorch cannot load {path}: {reason_of(error)}",
            hint="export it on the CPU: model.cpu() before torch.export.export",
        ) from error


def _run(
    program: Any,
    module: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    arrays: Arrays,
) -> Arrays:
    specs = program.graph_signature.input_specs
    given = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
    rest = iter([torch.from_numpy(arrays[spec.name]) for spec in inputs])
    flat = [next(rest) if isinstance(arg, TensorArgument) else arg.value for arg in given]
    args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    try:
        with torch.inference_mode():
            leaves = pytree.tree_leaves(module(*args, **kwargs))
    except (RuntimeError, AssertionError, IndexError) as error:
        raise InvalidInput(reason_of(error)) from error
    tensors = [leaf.numpy() for leaf in leaves if torch.is_tensor(leaf)]
    return dict(zip([spec.name for spec in outputs], tensors, strict=True))
