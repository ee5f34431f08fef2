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

import numpy as np

from mlserve.errors import InvalidInput
from mlserve.server.body_memory import PIECE, UNBOUNDED, Room
from mlserve.server.codec import json_writer
from mlserve.server.codec.images import check_images
from mlserve.server.codec.json_lists import (
    MAX_RANK,
    PackedList,
    Values,
    both_lists_and_values,
    irregular,
    packed,
)
from mlserve.server.codec.json_outline import check_depth
from mlserve.server.codec.json_parser import after_blanks, finite, has_large_exponent, raw_decode
from mlserve.server.tensors import (
    DEFAULT_SIGNATURE,
    NUMPY,
    Array,
    check_batch_length,
    check_names,
    misspelt,
)
from mlserve.server.tfs.json_words import (
    Decoder,
    from_base64,
    parse_problem,
    shown,
    type_of_value,
)
from mlserve.server.tfs.tensor_proto import type_name
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_DECODER = Decoder()
_FINITE = Decoder(parse_float=finite)
_SHORT = 2 * PIECE
"""Characters up to which a text is parsed at once: an image of 96 kB in base64, for one."""
_SIGNATURE_NAME = re.compile(rb'"signature_name"\s*:\s*"([^"\\]{1,200})"')
_LOOKED_AT = 4096
"""Bytes at each end of a body in which the signature's name is looked for."""
_PACKED = 1024
"""Items of a list from which on it is read in parts."""
_FORMS = (
    "the JSON object must have exactly one of 'instances' (row form) and 'inputs' (columnar form)"
)
_PLAIN_ROWS = (
    "instances is a plain list, but expecting list of objects as multiple input tensors required "
    "as per tensorinfo_map"
)
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
    max_depth: int,
    ignores_rest: bool = True,
    most_rows: int | None = None,
    room: Room = UNBOUNDED,
) -> dict[str, Any]:
    """The JSON object at the start of a request's body; what follows it is ignored, or a fault.

    Long lists in a long text are PackedLists. Raises InvalidInput that says where the fault is,
    and for more than `max_depth` levels, InputTooLarge for a long text of more than `most_rows`
    instances, and what `room` raises.
    """
    try:
        body, end = _parsed(text, max_depth=max_depth, most_rows=most_rows, room=room)
        if not ignores_rest and after_blanks(text, end) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise InvalidInput(parse_problem(error)) from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number without end
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise InvalidInput(
            f"JSON Value: {shown(body)} Is not object: it is "
            f"{_JSON_NAMES.get(type(body), 'a list')}, not an object"
        )
    return body


def _parsed(text: str, *, max_depth: int, most_rows: int | None, room: Room) -> tuple[Any, int]:
    """The value that the text begins with, and where it ends. Raises what `parse_body` raises."""
    start = after_blanks(text, 0)
    decoder = _FINITE if has_large_exponent(text) else _DECODER
    if len(text) - start > _SHORT:
        return raw_decode(decoder, text, start, room, max_depth=max_depth, most_rows=most_rows)
    check_depth(text, max_depth)
    return decoder.raw_decode(text, start)


def is_row_form(body: Mapping[str, Any]) -> bool:
    """Whether the body is in row form. Raises InvalidInput unless it is in exactly one form."""
    has_rows, has_columns = "instances" in body, "inputs" in body
    if has_rows and has_columns:
        raise InvalidInput(
            "JSON Value: {...} Not formatted correctly expecting only one of 'inputs' or "
            f"'instances' keys to exist: {_FORMS}"
        )
    if not has_rows and not has_columns:
        raise InvalidInput(f"Missing 'inputs' or 'instances' key: {_FORMS}")
    return has_rows


def read_inputs(signature: Signature, body: Mapping[str, Any], settings: ServerSettings) -> Tensors:
    """The arrays of the request, checked against the signature and the server's limits.

    Raises InvalidInput.
    """
    columns = (
        _columns_of_rows(signature, body["instances"])
        if is_row_form(body)
        else _columns(signature, body["inputs"])
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
    answer: json_writer.Text
    if len(columns) == 1:
        [column] = columns.values()
        answer = json_writer.array_text(*column)
    elif as_rows:
        answer = json_writer.rows_text(columns)
    else:
        texts = {name: json_writer.array_text(*column) for name, column in columns.items()}
        answer = json_writer.object_text(texts)
    key = "predictions" if as_rows else "outputs"
    return "".join(json_writer.object_text({key: answer})).encode()


def to_array(spec: TensorSpec, value: Any) -> Array:
    """The array of nested lists of JSON values. Raises InvalidInput naming the input."""
    if spec.dtype in _COMPLEX:
        raise InvalidInput(f"input '{spec.name}' is {spec.dtype.label}, which JSON has no form for")
    shape, flat = flatten(spec.name, value)
    if shape and shape[-1] == 0 and spec.shape is not None:  # [] does not say what it is a list of
        shape += tuple(size or 0 for size in spec.shape[len(shape) :])
    if wrong := types_of(flat) - _allowed(spec.dtype):
        value = _first_of(min(wrong, key=_JSON_NAMES.__getitem__), flat)
        raise InvalidInput(
            f"JSON Value: {shown(value)} Type: {type_of_value(value)} is not of expected type: "
            f"{type_name(spec.dtype)}: {_misplaced(spec, wrong)}"
        )
    return _to_numbers(spec, flat, overflows=True).reshape(shape)


def to_flat_array(spec: TensorSpec, flat: list[Any]) -> Array:
    """The array of JSON values that are no lists. Raises InvalidInput naming the input."""
    _check_types(spec, types_of(flat))
    return _to_numbers(spec, flat, overflows=False)


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
    """The values of each input, one a row. The first row says whether all are objects or none."""
    if isinstance(rows, PackedList) and len(rows):  # no row is an object
        return {_only_input(signature, _PLAIN_ROWS): rows}
    if not isinstance(rows, list | PackedList):
        raise InvalidInput(
            f"JSON Value: {shown(rows)} Excepting 'instances' to be an list/array: 'instances' "
            "must be a list of at least one value"
        )
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(
            "JSON Value: [] No values in 'instances' array: 'instances' must be a list of at "
            "least one value"
        )
    are_objects = _is_object(rows[0])
    for index, row in enumerate(rows):
        if _is_object(row) is not are_objects:
            expected, got = ("object", "list") if are_objects else ("value/list", "object")
            raise InvalidInput(f"Expecting {expected} but got {got} at item {index} of input list")
    if not are_objects:
        return {_only_input(signature, _PLAIN_ROWS): rows}
    for index, row in enumerate(rows):
        try:
            check_names(signature, row)
        except InvalidInput as error:
            error.message = (
                f"Failed to process element: {index} of 'instances' list. {error.message}"
            )
            raise
    given = signature.inputs_in(rows[0])
    if any(signature.inputs_in(row) != given for row in rows):
        raise InvalidInput("an input with a default must be in all of 'instances', or in none")
    return {spec.name: [row[spec.name] for row in rows] for spec in given}


def _columns(signature: Signature, value: Any) -> Mapping[str, Any]:
    """The value of each input; names that are no input are passed over."""
    if not _is_object(value):
        name = _only_input(
            signature,
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map",
        )
        return {name: value}
    known = {spec.name: value[spec.name] for spec in signature.inputs if spec.name in value}
    try:
        check_names(signature, known)
    except InvalidInput as error:
        missing = next(spec.name for spec in signature.required if spec.name not in value)
        error.message = f"Missing named input: {missing} in 'inputs' object" + misspelt(
            value.keys() - known.keys(), [missing]
        )
        raise
    return known


def _only_input(signature: Signature, otherwise: str) -> str:
    """The name of the only input. Raises InvalidInput, which says `otherwise`."""
    if len(signature.inputs) == 1:
        return signature.inputs[0].name
    names = ", ".join(spec.name for spec in signature.inputs)
    raise InvalidInput(
        f"{otherwise}: signature '{signature.name}' has {len(signature.inputs)} inputs: give an "
        f"object of the names {names}"
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_in_parts(flat: list[Any]) -> bool:
    return bool(flat) and type(flat[0]) is Values


def _first_of(kind: type, flat: list[Any]) -> Any:
    """The first value of that type, which is among them."""
    if not _is_in_parts(flat):
        return next(item for item in flat if type(item) is kind)
    values = next(part.values for part in flat if kind in part.types)
    if isinstance(values, np.ndarray):  # of several types, each value is as good
        return kind(values[0])
    return next(item for item in values if type(item) is kind)


def _check_types(spec: TensorSpec, types: Set[type]) -> None:
    wrong = types - _allowed(spec.dtype)
    if wrong:
        raise InvalidInput(_misplaced(spec, wrong))


def _misplaced(spec: TensorSpec, wrong: Set[type]) -> str:
    kind = min(_JSON_NAMES[kind] for kind in wrong)
    return f"input '{spec.name}' has {kind} where {spec.dtype.label} is expected"


def _allowed(dtype: DType) -> set[type]:
    if dtype is DType.BYTES:
        return {str, dict}
    if dtype is DType.BOOL:
        return {bool}
    return {int, float} if dtype in _FLOATS else {int}


def _to_numbers(spec: TensorSpec, flat: list[Any], *, overflows: bool) -> Array:
    """The array of what `flatten` found; of long lists a part at a time: no step takes long.

    What is too large for a float is infinite where it `overflows`, as in C.
    """
    if not _is_in_parts(flat):
        return _to_numbers_at_once(spec, flat, overflows=overflows)
    array = np.empty(sum(map(len, flat)), NUMPY[spec.dtype])
    start = 0
    for part in flat:
        values = _to_numbers_at_once(spec, part.values, overflows=overflows)
        array[start : start + len(part)] = values
        start += len(part)
    return array


def _to_numbers_at_once(spec: TensorSpec, flat: Sequence[Any] | Array, *, overflows: bool) -> Array:
    dtype = NUMPY[spec.dtype]
    if spec.dtype is DType.BYTES:
        return np.array([*(_to_bytes(spec.name, item) for item in flat), None], dtype=object)[:-1]
    if spec.dtype in _FLOATS:
        return _to_floats(spec, flat, overflows=overflows)
    if spec.dtype is not DType.BOOL and len(flat):
        limits = np.iinfo(dtype)
        ends = (flat.min(), flat.max()) if isinstance(flat, np.ndarray) else (min(flat), max(flat))
        if ends[0] < limits.min or ends[1] > limits.max:
            raise InvalidInput(f"input '{spec.name}' has a value out of range of {dtype}")
    return np.array(flat, dtype)


def _to_floats(spec: TensorSpec, flat: Sequence[Any] | Array, *, overflows: bool) -> Array:
    try:
        wide = np.array(flat, np.float64)
    except OverflowError as error:
        raise _out_of_range(spec) from error
    with np.errstate(over="ignore"):
        narrow = wide.astype(NUMPY[spec.dtype])
    if not overflows and np.any(np.isinf(narrow) != np.isinf(wide)):
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
        return from_base64(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input '{name}' has a b64 that is not base64: {error}") from error


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
    """Raises InvalidInput unless all outputs have the same first size."""
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    first = next(iter(sizes.values()), None)
    for name, size in sizes.items():
        if size is None or size != first:
            what = (
                f"Tensor name: {name} has no shape information "
                if size is None
                else f"Tensor name: {name} has inconsistent batch size: {size} expecting: {first}"
            )
            raise InvalidInput(
                f"{what}: the outputs have no common first dimension for the row form: {sizes}",
                hint="ask in the columnar form, with 'inputs' in place of 'instances'",
            )
