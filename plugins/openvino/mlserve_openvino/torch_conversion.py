"""Convert a `torch.export` program."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from mlserve.differences import Arrays
from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.sources import Classifier, Model
from mlserve.tensors import TensorSpec
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
    program = _loaded(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how OpenVINO uses torch
        found = converted(model, program, inputs, outputs)
    module = program.module()
    input_names = [spec.name for spec in inputs]
    output_names = [spec.name for spec in outputs]

    def run(arrays: Arrays) -> Arrays:
        tensors = [torch.from_numpy(arrays[name]) for name in input_names]
        try:
            with torch.inference_mode():
                results = module(*tensors)
        except (RuntimeError, AssertionError, IndexError, TypeError) as error:
            raise InvalidInput(reason_of(error)) from error
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(results) if torch.is_tensor(leaf)]
        return {
            name: leaf.numpy() for name, leaf in zip(output_names, leaves, strict=True)
        }

    return Original("PyTorch", found, run)


def _loaded(path: Any) -> Any:
    try:
        return torch.export.load(path)  # its source has looked for code in it
    except (RuntimeError, AssertionError) as error:
        raise ExportError(
            f"PyTorch cannot load {path}: {reason_of(error)}",
            hint="export it on the CPU: model.cpu() before torch.export.export",
        ) from error
