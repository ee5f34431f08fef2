"""Convert a `torch.export` program to `model.onnx`, and check it against PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlserve.differences import Arrays
from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.frameworks import unheard
from mlserve.image_pipeline.classifier import image_signatures
from mlserve.sources import Classifier, Model
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve_onnxruntime.onnx_writer import write_model
from mlserve_onnxruntime.same_answers import Original, checked_signatures

_NOT_OURS = "export it for --backend torch"


def write_program(model: Model, file: Path) -> Sequence[Signature]:
    """Convert the program, write it, and check its answers; return the signatures.

    Raises ExportError for TorchScript, and for a program that cannot be converted or gives other
    answers.
    """
    signature = _signature(model)
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype is DType.BFLOAT16:
            raise ExportError(
                f"the model {model.name} has {spec}: ONNX Runtime exchanges no bfloat16",
                hint=f"{_NOT_OURS}, or convert it inside the model",
            )
    program = _loaded(model)
    with unheard("torch.onnx"), warnings.catch_warnings():  # notes on what is not installed
        warnings.simplefilter("ignore")
        try:
            onnx_program = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
            )
        except Exception as error:  # the exporter has no common error
            raise ExportError(
                f"the model {model.name} cannot be converted to ONNX: {reason_of(error)}",
                hint=_NOT_OURS,
            ) from error
    write_model(model.name, onnx_program.model_proto, file, _NOT_OURS)
    module = program.module()
    original = Original(
        "PyTorch",
        model.name,
        signature,
        lambda inputs: _answers(program, module, signature, inputs),
        _NOT_OURS,
    )
    found = checked_signatures(original, file)
    return image_signatures(model.pipeline) if isinstance(model, Classifier) else found


def _signature(model: Model) -> Signature:
    if not isinstance(model, Classifier):
        return model.signatures[0]
    inputs = tuple(TensorSpec.from_json(spec) for spec in model.details["inputs"])
    units = 1 if model.pipeline.activation.is_binary else model.pipeline.classes
    outputs = (TensorSpec("scores", DType.FLOAT32, (None, units)),)
    return Signature(DEFAULT_SIGNATURE, inputs, outputs)


def _loaded(model: Model) -> Any:
    path = model.forward if isinstance(model, Classifier) else model.content
    if model.details.get("format") == "TorchScript":
        raise ExportError(
            f"the model {model.name} is TorchScript, which PyTorch's exporter does not convert",
            hint=f"{_NOT_OURS}, or save it with torch.export.save",
        )
    try:
        return torch.export.load(path)  # its source has looked for code in it
    except (RuntimeError, AssertionError) as error:
        raise ExportError(
            f"PyTorch cannot load {path}: {reason_of(error)}",
            hint="export it on the CPU: model.cpu() before torch.export.export",
        ) from error


def _answers(program: Any, module: Any, signature: Signature, inputs: Arrays) -> Arrays:
    specs = program.graph_signature.input_specs
    given = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
    rest = iter([torch.from_numpy(inputs[spec.name]) for spec in signature.inputs])
    flat = [next(rest) if isinstance(arg, TensorArgument) else arg.value for arg in given]
    args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    try:
        with torch.inference_mode():
            leaves = pytree.tree_leaves(module(*args, **kwargs))
    except (RuntimeError, AssertionError, IndexError) as error:
        raise InvalidInput(reason_of(error)) from error
    tensors = [leaf for leaf in leaves if torch.is_tensor(leaf)]
    names = [spec.name for spec in signature.outputs]
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
