"""Signatures as TensorFlow Serving describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlserve.protocols.proto.framework_pb2 import SignatureDef, TensorInfo
from mlserve.protocols.proto.serving_pb2 import SignatureDefMap
from mlserve.tensors import Signature, TensorSpec

_PREDICT = "tensorflow/serving/predict"


def signature_def_map(signatures: Mapping[str, Signature]) -> SignatureDefMap:
    """All signatures, by name. The name of a tensor is its alias: a Runner has no other."""
    defs = SignatureDefMap()
    for name, signature in signatures.items():
        definition = SignatureDef(method_name=_PREDICT)
        for spec, info in _infos(signature.inputs):
            definition.inputs[spec.name].CopyFrom(info)
        for spec, info in _infos(signature.outputs):
            definition.outputs[spec.name].CopyFrom(info)
        defs.signature_def[name].CopyFrom(definition)
    return defs


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
