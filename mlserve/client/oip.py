"""Open Inference Protocol code shared by gRPC and REST: raw tensors, metadata, class strings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from mlserve.client.adapter import ModelRef, number_of
from mlserve.client.answers import ModelMetadata
from mlserve.client.codecs import checked, element_count
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor
from mlserve.tensors import DType, Signature, TensorSpec
from mlserve.wire.tensors import CutOff, item_size, pack_string, unpack_strings

FUNCTION = "infer"
"""Name for the one nameless function of a model; never sent."""
DTYPES = {dtype.oip_name: dtype for dtype in DType if dtype.oip_name}
"""The types by their names in the protocol."""
Declared = tuple[str, str, Iterable[int]]
"""The name, the datatype and the shape of a tensor; -1 is an unknown size."""
_LONGEST = 2**63 - 1
_CLASS = re.compile(
    r"([-+]?(?:\d[-+.\de]*|nan|inf|infinity)):(\d{1,18})(?::(.*))?", re.DOTALL | re.IGNORECASE
)


def described(
    model: ModelRef,
    versions: tuple[str, ...],
    selectable: tuple[str, ...],
    inputs: Iterable[Declared],
    outputs: Iterable[Declared],
    optional: Iterable[str] = (),
) -> ModelMetadata:
    """Return the metadata of a model, whose one signature is `infer`.

    The version is the requested one, else the highest of those listed. `optional` names the inputs
    that a request may leave out, which only mlserve's own servers tell.
    """
    numbers = [number for number in map(number_of, versions) if number is not None]
    version = max(numbers, default=None) if model.version is None else model.version
    takes, gives = _specs(inputs), _specs(outputs)
    signatures = (
        () if takes is None else (Signature(FUNCTION, takes, gives or (), frozenset(optional)),)
    )
    return ModelMetadata(model.name, version, signatures, selectable)


def _specs(declared: Iterable[Declared]) -> tuple[TensorSpec, ...] | None:
    """Return the specs; None if one of them has a type that no request can carry."""
    specs = [tensor_spec(*item) for item in declared]
    known = tuple(spec for spec in specs if spec is not None)
    return known if len(known) == len(specs) else None


def tensor_spec(name: str, datatype: str, shape: Iterable[int]) -> TensorSpec | None:
    """Return the spec of an input or output; None for an unsupported type."""
    dtype = DTYPES.get(datatype)
    sizes = tuple(None if size < 0 else size for size in shape)
    return None if dtype is None else TensorSpec(name, dtype, sizes)


def microseconds(seconds: float) -> int:
    """Return the time left in microseconds, the unit of Triton's parameter `timeout`."""
    return min(int(seconds * 1_000_000), _LONGEST)


def datatype_of(tensor: Tensor) -> str:
    """Return the protocol's name of an input's type."""
    assert tensor.dtype is not None  # only an answer may leave it out
    assert tensor.dtype.oip_name is not None  # no metadata of the protocol has such an input
    return tensor.dtype.oip_name


def raw_data(tensor: Tensor) -> bytes:
    """Return the elements of an input as raw bytes."""
    if isinstance(tensor.data, bytes):
        return tensor.data
    return b"".join(map(pack_string, tensor.data))


def raw_output(
    name: str, datatype: str, shape: tuple[int, ...], raw: bytes, most_values: int | None
) -> Tensor:
    """Return an output of raw bytes; without elements if its type is not supported.

    Raises Unreadable.
    """
    size, dtype = element_count(name, shape, most_values), DTYPES.get(datatype)
    if dtype is None:
        return Tensor(shape, ())
    if dtype is DType.BYTES:
        # Read one more than allowed, to detect that there are too many.
        strings = tuple(islice(_strings(name, raw), size + 1))
        return checked(name, shape, strings, dtype, most_values)
    if len(raw) != size * item_size(dtype):
        raise Unreadable(
            f"an output {name!r} of {datatype}{list(shape)}, {size * item_size(dtype)} bytes",
            f"{len(raw)} bytes",
        )
    return Tensor(shape, raw, dtype)


def _strings(name: str, raw: bytes) -> Iterator[bytes]:
    try:
        yield from unpack_strings(raw)
    except CutOff as error:
        raise Unreadable(f"an output {name!r} of strings", f"{len(raw)} bytes, cut off") from error


def with_classes(outputs: Mapping[str, Tensor], scores: str) -> Mapping[str, Tensor]:
    """Return the outputs, with the class strings of the output `scores` split up.

    Its strings `score:index` or `score:index:label` become `labels`, `scores` and `indices` of
    shape [1,k]; a class without a label is named by its index. An output of another kind stays as
    it is. Use it only if classes were requested: a plain label may look like one (`16:9`).
    """
    found = outputs.get(scores)
    values = () if found is None else found.values
    classes = [_CLASS.fullmatch(value) for value in values if isinstance(value, str)]
    matches = [match for match in classes if match]
    return _taken_apart(matches) if matches and len(matches) == len(values) else outputs


def _taken_apart(classes: list[re.Match[str]]) -> Mapping[str, Tensor]:
    shape = (1, len(classes))
    return {
        "labels": Tensor(shape, tuple(match[3] or match[2] for match in classes)),
        "scores": Tensor(shape, tuple(_number(match[1]) for match in classes)),
        "indices": Tensor(shape, tuple(int(match[2]) for match in classes)),
    }


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise Unreadable("a class `score:index:label`", repr(value)) from error
