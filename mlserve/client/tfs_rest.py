"""TensorFlow Serving v1 over REST: JSON in, JSON out, no I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from mlserve.client.adapter import Call, InferRequest, ModelRef, Reply
from mlserve.client.answers import Answer, ModelMetadata, VersionStatus
from mlserve.client.codecs import (
    MOST_OF_TENSORS,
    MOST_VALUES,
    OVER_GRPC,
    WRONG,
    excerpt,
    parse_json,
    shown,
)
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor, Value, nested
from mlserve.errors import InvalidInput
from mlserve.tensors import DType, Signature, TensorSpec, method_of
from mlserve.wire.tensors import COMPLEX

_ENCODINGS = frozenset(("coo_sparse", "composite_tensor"))
"""The keys of a TensorInfo that is not one dense tensor (meta_graph.proto)."""


class TfsRest:
    """The adapter for `/v1/models/...`: predict in the columnar form, metadata and status."""

    def infer_call(self, model: ModelRef, request: InferRequest, seconds: float) -> Call:
        inputs = {name: _in_json(tensor) for name, tensor in request.inputs.items()}
        body = {"signature_name": request.signature, "inputs": inputs}
        return Call(_path(model) + ":predict", json.dumps(body).encode())

    def read_answer(self, reply: Reply, *, is_bounded: bool = True) -> Answer:
        data = parse_json(reply.body, MOST_VALUES if is_bounded else MOST_OF_TENSORS)
        outputs = data.get("outputs")
        if outputs is None:
            raise Unreadable("a predict answer with outputs", excerpt(reply.body))
        named = outputs if isinstance(outputs, dict) and not _is_b64(outputs) else {"": outputs}
        return Answer({name: _output(name, value) for name, value in named.items()}, None)

    def metadata_call(self, model: ModelRef, signature: str = "") -> Call:
        return Call(_path(model) + "/metadata", None)

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        data = parse_json(reply.body)
        try:
            definitions = data["metadata"]["signature_def"]["signature_def"]
            version = data["model_spec"].get("version") or model.version
            found = [_signature(name, item) for name, item in sorted(definitions.items())]
            number = None if version is None else int(version)
        except WRONG as error:
            raise Unreadable("the metadata of a model", excerpt(reply.body)) from error
        return ModelMetadata(model.name, number, tuple(s for s in found if s is not None))

    def status_call(self, model: ModelRef) -> Call:
        return Call(_path(model), None)

    def read_status(self, reply: Reply) -> tuple[VersionStatus, ...]:
        try:
            rows = parse_json(reply.body)["model_version_status"]
            latest_first = sorted(rows, key=lambda row: -int(row["version"]))
            return tuple(_version_status(row) for row in latest_first)
        except Unreadable:
            raise
        except WRONG as error:
            raise Unreadable("the status of a model", excerpt(reply.body)) from error


def _path(model: ModelRef) -> str:
    version = "" if model.version is None else f"/versions/{model.version}"
    return f"/v1/models/{quote(model.name, safe='')}{version}"


def _version_status(row: Mapping[str, Any]) -> VersionStatus:
    error = row.get("status", {}).get("error_message", "")
    return VersionStatus(int(row["version"]), str(row["state"]), str(error))


def _signature(name: str, definition: Mapping[str, Any]) -> Signature | None:
    """Return the signature; None if it cannot be asked, as with initializers.

    The same are left out as by `read_signature`, which reads the message instead of its JSON.
    """
    inputs, outputs = definition.get("inputs", {}), definition.get("outputs", {})
    try:
        takes, gives = _tensor_specs(inputs), _tensor_specs(outputs)
    except ValueError:
        return None
    if not gives:
        return None
    optional = frozenset(definition.get("defaults", {}))
    method = method_of(str(definition.get("method_name", "")))
    return Signature(name, takes, gives, optional, method)


def _tensor_specs(tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return the specs. Raises ValueError for a type or a tensor that no request can carry."""
    if any(not _ENCODINGS.isdisjoint(info) for info in tensors.values()):
        raise ValueError("a sparse or composite tensor")
    return tuple(
        TensorSpec(name, DType.from_tf_name(info["dtype"]), _shape(info.get("tensor_shape")))
        for name, info in sorted(tensors.items())
    )


def _shape(shape: Mapping[str, Any] | None) -> tuple[int | None, ...] | None:
    if shape is None or shape.get("unknown_rank"):
        return None
    sizes = (int(dim.get("size", 0)) for dim in shape.get("dim", []))
    return tuple(None if size < 0 else size for size in sizes)


def require_json_form(spec: TensorSpec, tensor: Tensor) -> None:
    """Raise InvalidInput for an input that nested lists of JSON values cannot say.

    An empty list does not show the sizes inside it: the server takes them from the spec.
    """
    if tensor.dtype in COMPLEX:
        raise InvalidInput(
            f"input '{spec.name}' is {spec.dtype.label}, which JSON has no form for",
            hint=OVER_GRPC,
        )
    if 0 not in tensor.shape:
        return
    known = tensor.shape.index(0) + 1
    inner = () if spec.shape is None else tuple(size or 0 for size in spec.shape[known:])
    if tensor.shape[known:] != inner:
        raise InvalidInput(
            f"input '{spec.name}' has the shape {list(tensor.shape)}, of which an empty list in "
            f"JSON shows only {list(tensor.shape[:known])}",
            hint=OVER_GRPC,
        )


def _in_json(tensor: Tensor) -> Any:
    """Return the elements in nested lists; strings as base64, which any bytes can be."""
    elements: Sequence[Any] = tensor.elements
    if tensor.dtype is DType.BYTES:
        elements = [{"b64": base64.b64encode(item).decode("ascii")} for item in tensor.elements]
    return nested(tensor.shape, elements)


def _output(name: str, data: Any) -> Tensor:
    """Return an output of nested lists, without its type. Raises Unreadable if it is ragged."""
    shape: list[int] = []
    flat = [data]
    while flat and all(isinstance(item, list) for item in flat):
        size = len(flat[0])
        if any(len(item) != size for item in flat):
            raise Unreadable(f"an output {name!r}", "lists of unequal length")
        shape.append(size)
        flat = [value for item in flat for value in item]
    return Tensor(tuple(shape), tuple(_value(name, value) for value in flat))


def _value(name: str, value: Any) -> Value | bytes:
    if isinstance(value, str | int | float):
        return value
    if _is_b64(value):
        try:
            return base64.b64decode(value["b64"])
        except (binascii.Error, TypeError, ValueError) as error:
            raise Unreadable(f"an output {name!r}", shown(value)) from error
    raise Unreadable(f"an output {name!r}", shown(value))


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}
