"""Convert the JSON of TensorFlow Serving's REST API to numpy and back.

    {"instances": [row, ...]}  ->  {"predictions": [row, ...]}     row form
    {"inputs": columns}        ->  {"outputs": columns}            columnar form

A signature with a single input takes its value without the name; one with a single output answers
in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlserve.errors import InvalidInput
from mlserve.server.codec import json_writer
from mlserve.server.codec.images import check_images
from mlserve.server.codec.json_lists import PackedList
from mlserve.server.codec.json_values import (
    first_of,
    flatten,
    from_numbers,
    is_base64,
    misplaced_text,
    misplaced_type,
    to_base64,
    to_flat_array,
)
from mlserve.server.codec.rapidjson import shown, type_of_value
from mlserve.server.tensors import Array, check_batch_length, check_names, misspelt
from mlserve.server.tfs.tensor_proto import type_name
from mlserve.settings import ServerSettings
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve.wire.tensors import COMPLEX

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_SIGNATURE_NAME = re.compile(rb'"signature_name"\s*:\s*"([^"\\]{1,200})"')
_LOOKED_AT = 4096
"""Bytes at each end of a body in which to look for the signature's name."""
_FORMS = (
    "the JSON object must have exactly one of 'instances' (row form) and 'inputs' (columnar form)"
)
_PLAIN_ROWS = (
    "instances is a plain list, but expecting list of objects as multiple input tensors required "
    "as per tensorinfo_map"
)


def signature_asked(body: bytes | bytearray) -> str:
    """Guess the signature that a body asks for without parsing it; empty if unknown.

    Only the ends of a long body are searched, as clients write it there. It may be wrong if an
    input is called `signature_name` too, but is good enough to estimate how long the request takes.
    Inside a JSON string the quotes would be escaped.
    """
    ends = (body[:_LOOKED_AT], body[-_LOOKED_AT:]) if len(body) > 2 * _LOOKED_AT else (body,)
    for end in ends:
        if match := _SIGNATURE_NAME.search(end):
            return match[1].decode("utf-8", "replace")
    return "" if len(ends) > 1 else DEFAULT_SIGNATURE


def is_row_form(body: Mapping[str, Any]) -> bool:
    """Return whether the body is in row form. Raises InvalidInput for neither form or both."""
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
    """Return the arrays of the request, checked against the signature and the server's limits.

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
    """Return the response's body: predictions for the row form, outputs for the columnar form.

    Raises InvalidInput for the row form when the outputs have no common first dimension.
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
    """Return nested lists of JSON values as an array. Raises InvalidInput naming the input."""
    if spec.dtype in COMPLEX:
        raise InvalidInput(f"input '{spec.name}' is {spec.dtype.label}, which JSON has no form for")
    shape, flat = flatten(spec.name, value)
    if shape and shape[-1] == 0 and spec.shape is not None:  # [] does not show what it is a list of
        shape += tuple(size or 0 for size in spec.shape[len(shape) :])
    if kind := misplaced_type(spec, flat):
        value = first_of(kind, flat)
        raise InvalidInput(
            f"JSON Value: {shown(value)} Type: {type_of_value(value)} is not of expected type: "
            f"{type_name(spec.dtype)}: {misplaced_text(spec, kind)}"
        )
    return to_flat_array(spec, flat, overflows=True).reshape(shape)


def from_array(spec: TensorSpec, array: Array) -> Any:
    """Return the array as nested lists of JSON values; a scalar as one value."""
    if spec.dtype is DType.BYTES:
        as_object = spec.name.endswith("_bytes")
        return _map(lambda item: _text(item, as_object=as_object), array.tolist())
    if spec.dtype in COMPLEX:
        raise InvalidInput(
            f"output '{spec.name}' is {spec.dtype.label}, which JSON has no form for",
            hint="ask over gRPC",
        )
    return from_numbers(spec, array)


def _columns_of_rows(signature: Signature, rows: Any) -> Mapping[str, Any]:
    """Return each input's values, one a row; the first row decides whether rows are objects."""
    if isinstance(rows, PackedList) and len(rows):  # none of its rows is an object
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
    """Return the value of each input; unknown names are ignored."""
    if not _is_object(value):
        name = _only_input(
            signature,
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map",
        )
        return {name: value}
    columns = {spec.name: value[spec.name] for spec in signature.inputs if spec.name in value}
    try:
        check_names(signature, columns)
    except InvalidInput as error:
        missing = next(spec.name for spec in signature.required if spec.name not in value)
        error.message = f"Missing named input: {missing} in 'inputs' object" + misspelt(
            value.keys() - columns.keys(), [missing]
        )
        raise
    return columns


def _only_input(signature: Signature, otherwise: str) -> str:
    """Return the name of the only input. Raises InvalidInput, with `otherwise` in its message."""
    if len(signature.inputs) == 1:
        return signature.inputs[0].name
    names = ", ".join(spec.name for spec in signature.inputs)
    raise InvalidInput(
        f"{otherwise}: signature '{signature.name}' has {len(signature.inputs)} inputs: give an "
        f"object of the names {names}"
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _text(item: object, *, as_object: bool) -> Any:
    data = item if isinstance(item, bytes) else str(item).encode()
    if not as_object:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": to_base64(data)}


def _map(convert: Any, value: Any) -> Any:
    return [_map(convert, item) for item in value] if isinstance(value, list) else convert(value)


def _check_batch(outputs: Tensors) -> None:
    """Raise InvalidInput unless all outputs have the same first size."""
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
