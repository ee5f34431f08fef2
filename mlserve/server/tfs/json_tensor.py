"""JSON of TensorFlow Serving's REST API to numpy and back.

    {"instances": [row, ...]}  ->  {"predictions": [row, ...]}     row form
    {"inputs": columns}        ->  {"outputs": columns}            columnar form

A signature with one input takes its value without the name; one with one output answers so.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence, Set
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID253

from mlserve.errors import InvalidInput
from mlserve.server import json_writing
from mlserve.server.dtypes import NUMPY, Array
from mlserve.server.image_header import check_images
from mlserve.server.input_check import (
    DEFAULT_SIGNATURE,
    check_batch_length,
    check_names,
    check_shape,
)
from mlserve.server.json_depth import check_depth
from mlserve.server.json_numbers import finite, has_large_exponent
from mlserve.server.json_pieces import after_blanks, raw_decode
from mlserve.server.packed_lists import (
    MAX_RANK,
    PackedList,
    Values,
    both_lists_and_values,
    irregular,
    packed,
)
from mlserve.server.reading import PIECE, UNBOUNDED, Room
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_DECODER = json.JSONDecoder()
_FINITE = json.JSONDecoder(parse_float=finite)
_SHORT = 2 * PIECE
"""Characters up to which a text is parsed at once: an image of 96 kB in base64, for one."""
_SIGNATURE_NAME = re.compile(rb'"signature_name"\s*:\s*"([^"\\]{1,200})"')
_LOOKED_AT = 4096
"""Bytes at each end of a body in which the signature's name is looked for."""
_PACKED = 1024
"""Items of a list from which on it is read in parts."""
_COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)
_FLOATS = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)
_JSON_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number with a fraction or an exponent",
    bool: "a boolean",
    type(None): "null",
    dict: "an object",
}


def signature_asked(body: bytes | bytearray) -> str:
    """The signature that a body seems to ask for, told without parsing it; empty for no idea.

    Only the ends of a long body are looked at, where clients write it. It may be wrong, where an
    input is called `signature_name` too: good enough to expect by it how long the request takes.
    Inside of a JSON string the quotes would be escaped.
    """
    ends = (body[:_LOOKED_AT], body[-_LOOKED_AT:]) if len(body) > 2 * _LOOKED_AT else (body,)
    for end in ends:
        if found := _SIGNATURE_NAME.search(end):
            return found[1].decode("utf-8", "replace")
    return "" if len(ends) > 1 else DEFAULT_SIGNATURE


def parse_body(
    text: str,
    *,
    ignores_rest: bool = True,
    max_depth: int = DEFAULT_SETTINGS.max_json_depth,
    most_rows: int | None = None,
    room: Room = UNBOUNDED,
) -> dict[str, Any]:
    """The JSON object at the start of a request's body; what follows it is ignored, or a fault.

    Long lists in a long text are PackedLists. Raises InvalidInput that says where the fault is,
    and for more than `max_depth` levels, InputTooLarge for a long text of more than `most_rows`
    instances, and what `room` raises.
    """
    start = after_blanks(text, 0)
    decoder = _FINITE if has_large_exponent(text) else _DECODER
    try:
        if len(text) - start > _SHORT:
            body, end = raw_decode(
                decoder, text, start, room, max_depth=max_depth, most_rows=most_rows
            )
        else:
            check_depth(text, max_depth)
            body, end = decoder.raw_decode(text, start)
        if not ignores_rest and after_blanks(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"JSON Parse error: {error}") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number without end
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInput(f"JSON Value is {_JSON_NAMES.get(type(body), 'a list')}, not an object")
    return body


def is_row_form(body: Mapping[str, Any]) -> bool:
    """Whether the body is in row form. Raises InvalidInput unless it is in exactly one form."""
    if ("instances" in body) == ("inputs" in body):
        raise InvalidInput(
            "the JSON object must have exactly one of 'instances' (row form) and 'inputs' "
            "(columnar form)"
        )
    return "instances" in body


def read_inputs(
    signature: Signature, body: Mapping[str, Any], settings: ServerSettings = DEFAULT_SETTINGS
) -> Tensors:
    """The arrays of the request, checked against the signature and the server's limits.

    Raises InvalidInput.
    """
    columns = (
        _columns_of_rows(signature, body["instances"])
        if is_row_form(body)
        else _named(signature, body["inputs"])
    )
    given = signature.inputs_in(columns)
    for spec in given:
        value = columns[spec.name]
        shape = (len(value),) if isinstance(value, list | PackedList) else ()
        check_batch_length(spec, shape, settings.max_batch_length)
    inputs = {spec.name: to_array(spec, columns[spec.name]) for spec in given}
    check_images(signature, inputs, settings)
    return inputs


def write_outputs(signature: Signature, outputs: Tensors, *, as_rows: bool) -> bytes:
    """The response's body: predictions for the row form, outputs for the columnar form.

    Raises InvalidInput when the outputs have no common first dimension and rows were asked for.
    """
    columns = {
        spec.name: (outputs[spec.name], partial(from_array, spec)) for spec in signature.outputs
    }
    if as_rows:
        _check_batch({name: array for name, (array, _) in columns.items()})
    answer: json_writing.Text
    if len(columns) == 1:
        [column] = columns.values()
        answer = json_writing.array_text(*column)
    elif as_rows:
        answer = json_writing.rows_text(columns)
    else:
        texts = {name: json_writing.array_text(*column) for name, column in columns.items()}
        answer = json_writing.object_text(texts)
    key = "predictions" if as_rows else "outputs"
    return "".join(json_writing.object_text({key: answer})).encode()


def to_array(spec: TensorSpec, value: Any) -> Array:
    """The array of nested lists of JSON values. Raises InvalidInput naming the input."""
    if spec.dtype in _COMPLEX:
        raise InvalidInput(f"input '{spec.name}' is {spec.dtype.label}, which JSON has no form for")
    shape, flat = flatten(spec.name, value)
    if shape and shape[-1] == 0 and spec.shape is not None:  # [] does not say what it is a list of
        shape += tuple(size or 0 for size in spec.shape[len(shape) :])
    check_shape(spec, shape)
    return to_flat_array(spec, flat).reshape(shape)


def to_flat_array(spec: TensorSpec, flat: list[Any]) -> Array:
    """The array of JSON values that are no lists. Raises InvalidInput naming the input."""
    _check_types(spec, types_of(flat))
    return _from_parts(spec, flat) if _is_in_parts(flat) else _to_numbers(spec, flat)


def types_of(flat: list[Any]) -> Set[type]:
    """The types of the values of `flatten`."""
    if _is_in_parts(flat):
        return frozenset().union(*(part.types for part in flat))
    return set(map(type, flat))


def flatten(name: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their values: JSON values, or parts of them as `Values`.

    Raises InvalidInput.
    """
    if type(value) is list and (len(value) > _PACKED or PackedList in set(map(type, value))):
        value = packed(value)
    if type(value) is PackedList:
        return value.flat(name)
    shape: list[int] = []
    level = [value]
    while level and all(type(item) is list for item in level):
        lengths = {len(item) for item in level}
        if len(lengths) > 1 or len(shape) >= MAX_RANK:
            raise irregular(name, lengths, len(shape) + 1)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if any(type(item) is list for item in level):
        raise both_lists_and_values(name, len(shape) + 1)
    return tuple(shape), level


def from_array(spec: TensorSpec, array: Array) -> Any:
    """The array as nested lists of JSON values; a scalar as one value."""
    if spec.dtype is DType.BYTES:
        as_object = spec.name.endswith("_bytes")
        return _map(lambda item: _text(item, as_object=as_object), array.tolist())
    if spec.dtype in _COMPLEX:
        raise InvalidInput(
            f"output '{spec.name}' is {spec.dtype.label}, which JSON has no form for",
            hint="ask over gRPC",
        )
    return from_numbers(spec, array)


def from_numbers(spec: TensorSpec, array: Array) -> Any:
    """The array of numbers or booleans as nested lists of JSON values; a scalar as one value."""
    if spec.dtype in _FLOATS and spec.dtype is not DType.FLOAT64:
        # The shortest decimal of a float32 is what a reader expects: 0.1, not 0.10000000149011612.
        array = array.astype(np.float32).astype(np.str_).astype(np.float64)
    return array.tolist()


def _columns_of_rows(signature: Signature, rows: Any) -> Mapping[str, Any]:
    if not isinstance(rows, list | PackedList) or not len(rows):
        raise InvalidInput("'instances' must be a list of at least one value")
    if isinstance(rows, PackedList):  # no row is an object
        return _named(signature, rows)
    named = [_named(signature, row) for row in rows]
    given = signature.inputs_in(named[0])
    if any(signature.inputs_in(row) != given for row in named):
        raise InvalidInput("an input with a default must be in all of 'instances', or in none")
    return {spec.name: [row[spec.name] for row in named] for spec in given}


def _named(signature: Signature, value: Any) -> Mapping[str, Any]:
    """Values by input name, from an object of them or from the value of the only input."""
    if isinstance(value, dict) and not _is_base64(value):
        check_names(signature, value)
        return value
    if len(signature.inputs) == 1:
        return {signature.inputs[0].name: value}
    names = ", ".join(spec.name for spec in signature.inputs)
    raise InvalidInput(
        f"signature '{signature.name}' has {len(signature.inputs)} inputs: give an object of "
        f"the names {names}"
    )


def _is_in_parts(flat: list[Any]) -> bool:
    return bool(flat) and type(flat[0]) is Values


def _from_parts(spec: TensorSpec, parts: Sequence[Values]) -> Array:
    """The array of long lists, a part at a time: no step takes long."""
    array = np.empty(sum(map(len, parts)), NUMPY[spec.dtype])
    start = 0
    for part in parts:
        array[start : start + len(part)] = _to_numbers(spec, part.values)
        start += len(part)
    return array


def _check_types(spec: TensorSpec, types: Set[type]) -> None:
    allowed = _allowed(spec.dtype)
    wrong = [_JSON_NAMES[kind] for kind in types - allowed]
    if wrong:
        raise InvalidInput(
            f"input '{spec.name}' has {min(wrong)} where {spec.dtype.label} is expected"
        )


def _allowed(dtype: DType) -> set[type]:
    if dtype is DType.BYTES:
        return {str, dict}
    if dtype is DType.BOOL:
        return {bool}
    return {int, float} if dtype in _FLOATS else {int}


def _to_numbers(spec: TensorSpec, flat: Sequence[Any] | Array) -> Array:
    dtype = NUMPY[spec.dtype]
    if spec.dtype is DType.BYTES:
        return np.array([*(_to_bytes(spec.name, item) for item in flat), None], dtype=object)[:-1]
    if spec.dtype in _FLOATS:
        return _to_floats(spec, flat)
    if spec.dtype is not DType.BOOL and len(flat):
        limits = np.iinfo(dtype)
        ends = (flat.min(), flat.max()) if isinstance(flat, np.ndarray) else (min(flat), max(flat))
        if ends[0] < limits.min or ends[1] > limits.max:
            raise InvalidInput(f"input '{spec.name}' has a value out of range of {dtype}")
    return np.array(flat, dtype)


def _to_floats(spec: TensorSpec, flat: Sequence[Any] | Array) -> Array:
    try:
        wide = np.array(flat, np.float64)
    except OverflowError as error:
        raise _out_of_range(spec) from error
    with np.errstate(over="ignore"):
        narrow = wide.astype(NUMPY[spec.dtype])
    if np.any(np.isinf(narrow) != np.isinf(wide)):
        raise _out_of_range(spec)
    return narrow


def _out_of_range(spec: TensorSpec) -> InvalidInput:
    return InvalidInput(f"input '{spec.name}' has a value out of range of {spec.dtype.label}")


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _to_bytes(name: str, item: str | dict[str, Any]) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"input '{name}' has half a character: {error}") from error
    if not _is_base64(item):
        raise InvalidInput(f'input \'{name}\' has an object that is not {{"b64": "..."}}')
    text: str = item["b64"]
    try:
        return _from_base64(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input '{name}' has a b64 that is not base64: {error}") from error


def _from_base64(text: str) -> bytes:
    """The bytes of base64 text, with or without padding, in pieces. Raises binascii.Error."""
    parts = []
    for start in range(0, len(text), PIECE):
        part, is_last = text[start : start + PIECE], start + PIECE >= len(text)
        if not is_last and "=" in part:
            raise binascii.Error("Excess data after padding")
        padding = "=" * (-len(part) % 4)
        parts.append(base64.b64decode(part + padding, validate=True))
    return b"".join(parts)


def _text(item: object, *, as_object: bool) -> Any:
    data = item if isinstance(item, bytes) else str(item).encode()
    if not as_object:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": _to_base64(data)}


def _to_base64(data: bytes) -> str:
    """The base64 text of the bytes, made in pieces."""
    size = PIECE // 3 * 3
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return "".join(base64.b64encode(piece).decode() for piece in pieces)


def _map(convert: Any, value: Any) -> Any:
    return [_map(convert, item) for item in value] if isinstance(value, list) else convert(value)


def _check_batch(outputs: Tensors) -> None:
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise InvalidInput(
            f"the outputs have no common first dimension for the row form: {sizes}",
            hint="ask in the columnar form, with 'inputs' in place of 'instances'",
        )
