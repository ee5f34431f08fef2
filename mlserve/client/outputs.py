"""The outputs of a signature, as a caller gets them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

from mlserve.client.answers import Retry, Tensors, Timings, has_uncertain
from mlserve.client.codecs import shown
from mlserve.client.question import numpy_arrays
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor, nested
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.wire.tensors import pack_numbers


@dataclass(eq=False, repr=False)
class Outputs(dict[str, Any]):
    """The outputs of a model by name, and what `Prediction` has about the call.

    Each output is a numpy array of the type that the model gives; strings are `bytes`, in an object
    array. Where numpy is not installed, it is a nested list, and a single value is itself.

        outputs = client.infer({"x": [[5.1, 3.5, 1.4, 0.2]]})
        outputs["label"], outputs.version, outputs.timings.total

    `signature` is empty if the server knows no signatures. `version` is None if the server does not
    say which version answered. `has_random_weights` is True if the server says that its answers are
    meaningless. `retries` are the failed attempts before this answer. `request_id` and `trace_id`
    are in the server's log. `served_by` and `rungs` are those of `Prediction`.
    """

    values_by_name: InitVar[Mapping[str, Any]]
    signature: str
    model: str
    version: int | None
    endpoint: str
    protocol: str
    api: str
    timings: Timings
    has_random_weights: bool
    request_id: str
    trace_id: str
    retries: tuple[Retry, ...] = ()
    served_by: str | None = None
    rungs: str | None = None

    def __post_init__(self, values_by_name: Mapping[str, Any]) -> None:
        self.update(values_by_name)

    def __repr__(self) -> str:
        return (
            f"Outputs({dict(self)!r}, model={self.model!r}, version={self.version}, "
            f"endpoint={self.endpoint!r})"
        )

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"{name!r} is not an output; there are: {', '.join(self)}")

    @property
    def attempts(self) -> int:
        """How often the server was asked."""
        return len(self.retries) + 1

    @property
    def is_uncertain(self) -> bool:
        """Whether a ladder had no time for the next rung for one of the rows."""
        return has_uncertain(self.rungs)

    def to_json(self) -> dict[str, Any]:
        """Return all of it in JSON's types: nested lists, and for bytes not UTF-8 `{"b64": ...}`.

        NaN and the infinities stay floats, which `json.dumps` writes as bare words. A complex
        number is the list of its two parts.
        """
        about = {name: value for name, value in vars(self).items() if name != "timings"}
        return {
            "outputs": {name: _to_json(value) for name, value in self.items()},
            **about,
            "attempts": self.attempts,
            "retries": [retry.to_json() for retry in self.retries],
            "timings_ms": self.timings.to_json(),
        }


def typed(outputs: Tensors, signature: Signature, wanted: Sequence[str]) -> Tensors:
    """Return the outputs that are wanted, in that order, with their types and as raw bytes.

    Without `wanted`, these are all of the signature, and any that it does not declare. Raises
    Unreadable for an answer that lacks one, or has one of values that its type cannot hold. The
    type is the one that the answer says; that of the signature if it says none.
    """
    specs = {spec.name: spec for spec in signature.outputs}
    if "" in outputs and len(specs) == 1:
        outputs = dict.fromkeys(specs, outputs[""])
    names = wanted or [*specs, *(name for name in outputs if name not in specs)]
    for name in names:
        if name not in outputs:
            came = ", ".join(filter(None, outputs)) or "one without a name"
            raise Unreadable(f"an answer with the output {name!r}", f"the outputs: {came}")
    return {name: _typed(name, outputs[name], specs.get(name)) for name in names}


def values_of(tensors: Tensors) -> dict[str, Any]:
    """Return the values of typed outputs as a caller gets them."""
    arrays = numpy_arrays()
    if arrays is None:
        return {name: nested(item.shape, item.elements) for name, item in tensors.items()}
    return {name: arrays.to_array(item) for name, item in tensors.items()}


def _typed(name: str, tensor: Tensor, spec: TensorSpec | None) -> Tensor:
    if isinstance(tensor.data, bytes):
        return tensor
    dtype, shape = tensor.dtype, tensor.shape
    if dtype is None and spec is not None:
        dtype, shape = spec.dtype, _whole_shape(tensor.shape, spec)
    if dtype is None or len(tensor.data) != tensor.count:
        raise Unreadable(f"an output {name!r} of a type that is known", f"{list(shape)}")
    if dtype is DType.BYTES:
        return Tensor(shape, [_as_bytes(name, item) for item in tensor.data], dtype)
    if dtype is DType.BOOL and not {0, 1}.issuperset(tensor.data):
        raise Unreadable(f"an output {name!r} of booleans", "other values")
    try:
        return Tensor(shape, pack_numbers(dtype, tensor.data), dtype)
    except (struct.error, OverflowError, AttributeError, TypeError) as error:
        raise Unreadable(f"an output {name!r} of {dtype.label}", str(error)) from error


def _whole_shape(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of nested lists; an empty list does not show the sizes inside it."""
    if not shape or shape[-1] or spec.shape is None:
        return shape
    return shape + tuple(size or 0 for size in spec.shape[len(shape) :])


def _as_bytes(name: str, item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        if isinstance(item, str):
            return item.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        pass  # half a character that no byte stands for
    raise Unreadable(f"an output {name!r} of strings", shown(item))


def _to_json(value: Any) -> Any:
    if hasattr(value, "dtype") and (arrays := numpy_arrays()):
        value = arrays.to_lists(value)
    return _in_json(value)


def _in_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_json(item) for item in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode("ascii")}
