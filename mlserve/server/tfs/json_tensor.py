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
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np  # noqa: TID253

from mlserve.errors import InvalidInput
from mlserve.server.dtypes import NUMPY, Array
from mlserve.server.image_header import check_images
from mlserve.server.input_check import (
    DEFAULT_SIGNATURE,
    check_batch_length,
    check_names,
    misspelt,
)
from mlserve.server.json_depth import check_depth
from mlserve.server.tfs.json_words import (
    first_wins,
    parse_problem,
    shown,
    spelled_out,
    type_of_value,
)
from mlserve.server.tfs.tensor_proto import type_name
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.tensors import DType, Signature, TensorSpec

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_DECODER = json.JSONDecoder(object_pairs_hook=first_wins)
_SIGNATURE_NAME = re.compile(rb'"signature_name"\s*:\s*"([^"\\]{1,200})"')
_FORMS = (
    "the JSON object must have exactly one of 'instances' (row form) and 'inputs' (columnar form)"
)
_MAX_RANK = 32
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


def signature_asked(body: bytes) -> str:
    """The signature that a body seems to ask for, told without parsing it.

    It may be wrong, where an input is called `signature_name` too: good enough to expect by it how
    long the request takes. Inside of a JSON string the quotes would be escaped.
    """
    found = _SIGNATURE_NAME.search(body)
    return DEFAULT_SIGNATURE if found is None else found[1].decode("utf-8", "replace")


def parse_body(
    text: str,
    *,
    ignores_rest: bool = True,
    max_depth: int = DEFAULT_SETTINGS.max_json_depth,
) -> dict[str, Any]:
    """The JSON object at the start of a request's body; what follows it is ignored, or a fault.

    Raises InvalidInput that says where the fault is, and for more than `max_depth` levels.
    """
    check_depth(text, max_depth)
    try:
        body, rest = _decoded(text)
        if not ignores_rest and rest.strip():
            raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
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


def _decoded(text: str) -> tuple[Any, str]:
    """The value that the text begins with, and what follows it."""
    start = len(text) - len(text.lstrip())
    try:
        body, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        spelled = spelled_out(text, error.pos)
        if spelled is None:
            raise
        text = spelled
        body, end = _DECODER.raw_decode(text, start)
    return body, text[end:]


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


def read_inputs(
    signature: Signature, body: Mapping[str, Any], settings: ServerSettings = DEFAULT_SETTINGS
) -> Tensors:
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
        shape = (len(value),) if isinstance(value, list) else ()
        check_batch_length(spec, shape, settings.max_batch_length)
    inputs = {spec.name: to_array(spec, columns[spec.name]) for spec in given}
    check_images(signature, inputs, settings)
    return inputs


def write_outputs(signature: Signature, outputs: Tensors, *, as_rows: bool) -> bytes:
    """The response's body: predictions for the row form, outputs for the columnar form.

    Raises InvalidInput when the outputs have no common first dimension and rows were asked for.
    """
    specs = signature.outputs
    if as_rows:
        _check_batch({spec.name: outputs[spec.name] for spec in specs})
    columns = {spec.name: from_array(spec, outputs[spec.name]) for spec in specs}
    answer: Any = columns[specs[0].name] if len(specs) == 1 else columns
    if as_rows and len(specs) != 1:
        names = list(columns)
        answer = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    key = "predictions" if as_rows else "outputs"
    return json.dumps({key: answer}, ensure_ascii=False).encode()


def to_array(spec: TensorSpec, value: Any) -> Array:
    """The array of nested lists of JSON values. Raises InvalidInput naming the input."""
    if spec.dtype in _COMPLEX:
        raise InvalidInput(f"input '{spec.name}' is {spec.dtype.label}, which JSON has no form for")
    shape, flat = flatten(spec.name, value)
    if shape and shape[-1] == 0 and spec.shape is not None:  # [] does not say what it is a list of
        shape += tuple(size or 0 for size in spec.shape[len(shape) :])
    kind = _wrong_kind(spec, flat)
    if kind is not None:
        wrong = next(item for item in flat if type(item) is kind)
        raise InvalidInput(
            f"JSON Value: {shown(wrong)} Type: {type_of_value(wrong)} is not of expected type: "
            f"{type_name(spec.dtype)}: {_misplaced(spec, kind)}"
        )
    return _to_numbers(spec, flat, overflows=True).reshape(shape)


def to_flat_array(spec: TensorSpec, flat: list[Any]) -> Array:
    """The array of JSON values that are no lists. Raises InvalidInput naming the input."""
    kind = _wrong_kind(spec, flat)
    if kind is not None:
        raise InvalidInput(_misplaced(spec, kind))
    return _to_numbers(spec, flat, overflows=False)


def flatten(name: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape and the values of nested lists, level by level. Raises InvalidInput."""
    shape: list[int] = []
    level = [value]
    while level and all(type(item) is list for item in level):
        lengths = {len(item) for item in level}
        if len(lengths) > 1 or len(shape) >= _MAX_RANK:
            raise InvalidInput(
                f"input '{name}' is not a regular tensor: lists of one level have the lengths "
                f"{', '.join(map(str, sorted(lengths)))} (level {len(shape) + 1})"
            )
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    if any(type(item) is list for item in level):
        raise InvalidInput(
            f"input '{name}' is not a regular tensor: level {len(shape) + 1} has both lists and "
            "values"
        )
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
    if not isinstance(rows, list):
        raise InvalidInput(
            f"JSON Value: {shown(rows)} Excepting 'instances' to be an list/array: 'instances' "
            "must be a list of at least one value"
        )
    if not rows:
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
        name = _only_input(
            signature,
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map",
        )
        return {name: rows}
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


def _wrong_kind(spec: TensorSpec, flat: list[Any]) -> type | None:
    """A type among the values that the input does not take, if there is one."""
    return next(iter(set(map(type, flat)) - _allowed(spec.dtype)), None)


def _misplaced(spec: TensorSpec, kind: type) -> str:
    return f"input '{spec.name}' has {_JSON_NAMES[kind]} where {spec.dtype.label} is expected"


def _allowed(dtype: DType) -> set[type]:
    if dtype is DType.BYTES:
        return {str, dict}
    if dtype is DType.BOOL:
        return {bool}
    return {int, float} if dtype in _FLOATS else {int}


def _to_numbers(spec: TensorSpec, flat: list[Any], *, overflows: bool) -> Array:
    dtype = NUMPY[spec.dtype]
    if spec.dtype is DType.BYTES:
        return np.array([*(_to_bytes(spec.name, item) for item in flat), None], dtype=object)[:-1]
    if spec.dtype in _FLOATS:
        return _to_floats(spec, flat, overflows=overflows)
    if spec.dtype is not DType.BOOL and flat:
        limits = np.iinfo(dtype)
        if min(flat) < limits.min or max(flat) > limits.max:
            raise InvalidInput(f"input '{spec.name}' has a value out of range of {dtype}")
    return np.array(flat, dtype)


def _to_floats(spec: TensorSpec, flat: list[Any], *, overflows: bool) -> Array:
    """The array. What is too large for its type is infinite in it where it `overflows`, as in C."""
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
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input '{name}' has a b64 that is not base64: {error}") from error


def _text(item: object, *, as_object: bool) -> Any:
    data = item if isinstance(item, bytes) else str(item).encode()
    if not as_object:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(data).decode()}


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
