"""Convert a signature of a SavedModel to `model.onnx`, and check it against TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import tensorflow as tf

from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.sources import TensorModel
from mlserve.tensors import DEFAULT_SIGNATURE, PREDICT, Signature, TensorSpec
from mlserve_onnxruntime.conversion import NOT_OURS, to_onnx
from mlserve_onnxruntime.onnx_writer import write_model
from mlserve_onnxruntime.same_answers import Original, checked_signatures

if TYPE_CHECKING:
    from mlserve.backend import Tensors


def write_signature(model: TensorModel, file: Path) -> Sequence[Signature]:
    """Convert `serving_default` (or the only signature), write it and check its answers.

    Names, dtypes and shapes stay. Returns the signature of the file. Raises ExportError when it
    cannot be converted, cannot be tried, or gives other answers than TensorFlow.
    """
    signature = _chosen(model)
    function = _function(model, signature)
    proto = to_onnx(model.name, function)
    _declare(model, proto, signature)
    write_model(model.name, proto, file, NOT_OURS)
    original = Original(
        "TensorFlow",
        model.name,
        signature,
        lambda inputs: _run(signature, function, inputs),
        NOT_OURS,
    )
    return checked_signatures(original, file)


def _chosen(model: TensorModel) -> Signature:
    takes_tensors = [signature for signature in model.signatures if signature.method == PREDICT]
    for signature in takes_tensors:
        if signature.name == DEFAULT_SIGNATURE or len(takes_tensors) == 1:
            return replace(signature, optional=frozenset())  # ONNX has no defaults for inputs
    names = ", ".join(signature.name for signature in model.signatures)
    raise ExportError(
        f"an ONNX file has one signature, and none of those of {model.name} is "
        f"{DEFAULT_SIGNATURE} and takes tensors ({names})",
        hint=NOT_OURS,
    )


def _function(model: TensorModel, signature: Signature) -> Any:
    """Return the signature as a `tf.function` of its inputs, in order, that gives a dict."""
    try:
        loaded = tf.saved_model.load(str(model.content))
        served = loaded.signatures[signature.name]
    except Exception as error:  # TensorFlow has no common error for SavedModels it cannot load
        raise ExportError(
            f"TensorFlow cannot load {model.name}: {reason_of(error)}", hint=NOT_OURS
        ) from error
    specs = [
        tf.TensorSpec(spec.shape, tf.as_dtype(spec.dtype.tf_number), name=spec.name)
        for spec in signature.inputs
    ]
    names = [spec.name for spec in signature.inputs]

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = served(**dict(zip(names, inputs, strict=True)))
        return outputs

    function = tf.function(call, input_signature=specs, autograph=False)
    function.owner = loaded  # its variables live as long as this
    return function


def _declare(model: TensorModel, proto: Any, signature: Signature) -> None:
    """Give the inputs and outputs of the graph the order and shapes of the signature."""
    for specs, tensors in (
        (signature.inputs, proto.graph.input),
        (signature.outputs, proto.graph.output),
    ):
        found = {tensor.name: tensor for tensor in tensors}
        if set(found) != {spec.name for spec in specs}:
            raise ExportError(
                f"converted to ONNX, {model.name} has {', '.join(sorted(found))} in place of "
                f"{', '.join(spec.name for spec in specs)}",
                hint=NOT_OURS,
            )
        in_order = [_declared(found[spec.name], spec, signature) for spec in specs]
        del tensors[:]
        tensors.extend(in_order)


def _declared(tensor: Any, spec: TensorSpec, signature: Signature) -> Any:
    if spec.shape is None:
        return tensor
    rows = "N" if signature.has_rows else f"{spec.name}_0"
    sizes = [
        (f"{spec.name}_{axis}" if axis else rows) if size is None else size
        for axis, size in enumerate(spec.shape)
    ]
    kind = tensor.type.tensor_type.elem_type
    return onnx.helper.make_tensor_value_info(tensor.name, kind, sizes)


def _run(signature: Signature, function: Any, inputs: Mapping[str, Any]) -> Tensors:
    tensors = [
        tf.constant(inputs[spec.name], tf.as_dtype(spec.dtype.tf_number))
        for spec in signature.inputs
    ]
    try:
        return {name: tensor.numpy() for name, tensor in function(*tensors).items()}
    except (tf.errors.OpError, TypeError) as error:
        raise InvalidInput(reason_of(error)) from error
