"""Describe the signatures of a model as SignatureDefs, TensorFlow Serving's model metadata."""

from __future__ import annotations

from collections.abc import Iterable

from mlserve.backend import HasDefinitions, Runner
from mlserve.tensors import Signature, TensorSpec
from mlserve.wire.proto.framework_pb2 import SignatureDef, TensorInfo
from mlserve.wire.proto.serving_pb2 import SignatureDefMap

PREDICT = "tensorflow/serving/predict"


def signature_def_map(runner: Runner) -> SignatureDefMap:
    """Return all signatures by name, from the model's own file or else from the Runner."""
    defs = SignatureDefMap()
    if isinstance(runner, HasDefinitions):
        for name, definition in runner.definitions.items():
            defs.signature_def[name].MergeFromString(definition)
        return defs
    for name, signature in runner.signatures.items():
        defs.signature_def[name].CopyFrom(_definition(signature))
    return defs


def _definition(signature: Signature) -> SignatureDef:
    """Return the message for that signature. A tensor's name is its alias, as it has no other.

    An input that may be left out has a default of unknown shape, whose value the Runner keeps.
    """
    definition = SignatureDef(method_name=PREDICT)
    for spec, info in _infos(signature.inputs):
        definition.inputs[spec.name].CopyFrom(info)
        if spec.name in signature.optional:
            definition.defaults[spec.name].dtype = info.dtype
            definition.defaults[spec.name].tensor_shape.unknown_rank = True
    for spec, info in _infos(signature.outputs):
        definition.outputs[spec.name].CopyFrom(info)
    return definition


def _infos(specs: Iterable[TensorSpec]) -> Iterable[tuple[TensorSpec, TensorInfo]]:
    for spec in specs:
        info = TensorInfo(name=spec.name, dtype=spec.dtype.tf_name)
        if spec.shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            info.tensor_shape.SetInParent()
            for size in spec.shape:
                info.tensor_shape.dim.add(size=-1 if size is None else size)
        yield spec, info
