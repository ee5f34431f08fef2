"""What the Open Inference Protocol says of a model, for its gRPC and its REST form alike."""

from __future__ import annotations

from collections.abc import Iterable

from mlserve.client.answers import ModelMetadata
from mlserve.client.oip_tensor import tensor_spec
from mlserve.client.wire import ModelRef, number_of
from mlserve.tensors import Signature, TensorSpec

FUNCTION = "infer"
"""What the one nameless function of a model is called; it is never sent."""
_LONGEST = 2**63 - 1
Declared = tuple[str, str, Iterable[int]]
"""The name, the datatype and the shape of a tensor; -1 is an unknown size."""


def described(
    model: ModelRef,
    versions: tuple[str, ...],
    selectable: tuple[str, ...],
    inputs: Iterable[Declared],
    outputs: Iterable[Declared],
) -> ModelMetadata:
    """The metadata of a model, whose one signature is `infer`.

    The version is the one that was asked for, else the highest of those that are listed.
    """
    numbers = [number for number in map(number_of, versions) if number is not None]
    version = max(numbers, default=None) if model.version is None else model.version
    takes, gives = _specs(inputs), _specs(outputs)
    signatures = () if takes is None else (Signature(FUNCTION, takes, gives or ()),)
    return ModelMetadata(model.name, version, signatures, selectable)


def microseconds(seconds: float) -> int:
    """The time left as the parameter `timeout` takes it; Triton's own unit."""
    return min(int(seconds * 1_000_000), _LONGEST)


def _specs(declared: Iterable[Declared]) -> tuple[TensorSpec, ...] | None:
    """The specs; None when one of them is of a type that no request can carry."""
    specs = [tensor_spec(*item) for item in declared]
    known = tuple(spec for spec in specs if spec is not None)
    return known if len(known) == len(specs) else None
