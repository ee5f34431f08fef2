"""REST bodies of the Open Inference Protocol: JSON, optionally followed by binary tensors.

    {"inputs": [{"name", "shape", "datatype", "data"}, ...]}
    {"inputs": [{"name", "shape", "datatype", "parameters": {"binary_data_size": 8}}]}<8 bytes>

The header Inference-Header-Content-Length is the length of the JSON if bytes follow it; 0 means
that the body is nothing but the value of the model's only input (Triton's binary tensor data
extension). A body of image files (`mlserve.server.codec.images`) is such a value without the
header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mlserve.errors import InputTooLarge, InvalidInput
from mlserve.server.body_memory import UNBOUNDED, Room
from mlserve.server.codec import json_writer
from mlserve.server.codec.images import is_image_body, read_image_body
from mlserve.server.codec.json_values import (
    flatten,
    from_numbers,
    misplaced_text,
    misplaced_type,
    to_flat_array,
    types_of,
)
from mlserve.server.codec.proto_scan import MOST_TEXT
from mlserve.server.codec.rapidjson import parse_body
from mlserve.server.listen.http_body import Content, content_of, text_of
from mlserve.server.message import Headers
from mlserve.server.models.loading import Served
from mlserve.server.oip.parameters import Parameters
from mlserve.server.oip.request import (
    AnswerTensor,
    InferRequest,
    SentTensor,
    WantedOutput,
    datatype_of,
)
from mlserve.server.oip.tensors import RAW_ONLY, byte_strings, from_bytes, to_bytes
from mlserve.server.tensors import Array
from mlserve.settings import ServerSettings
from mlserve.tensors import DType, TensorSpec
from mlserve.wire.headers import JSON_LENGTH

_INLINE_BYTES = 64 * 2**10
_SHOWN = 100
_INLINE_DIGITS = len(str(_INLINE_BYTES))


def is_small(body: Content, headers: Headers) -> bool:
    """Return whether `read_request` is quick: its JSON is short, and nothing is compressed."""
    if "content-encoding" in headers:
        return False
    length = headers.get(JSON_LENGTH)
    return len(body) <= _INLINE_BYTES or (length.isdecimal() and len(length) < _INLINE_DIGITS)


def read_request(
    body: Content,
    headers: Headers,
    settings: ServerSettings,
    room: Room = UNBOUNDED,
) -> InferRequest:
    """Parse a body without reading its tensors. Raises InvalidInput."""
    content = content_of(body, headers, settings.max_request_bytes, room)
    length = _json_length(content, headers)
    if length == 0:
        return InferRequest("", Parameters(), (), (), is_binary=True, raw_body=content)
    if length is None and is_image_body(content, headers):
        image_body = read_image_body(content, headers, settings, room)
        named = {"signature": image_body.signature} if image_body.signature else {}
        return InferRequest("", Parameters(named), (), (), files=image_body.files)
    sent = memoryview(content)
    text = text_of(sent[:length], room)
    head = parse_body(text, ignores_rest=False, max_depth=settings.max_json_depth, room=room)
    tail = sent[len(content) if length is None else length :]
    request_id = _id_of(head)
    parameters = Parameters.from_json(head.get("parameters"), "the request")
    return InferRequest(
        request_id,
        parameters,
        _inputs(_objects(head, "inputs"), tail, room),
        [_wanted(item) for item in _objects(head, "outputs")] if head.get("outputs") else (),
        is_binary=bool(parameters.flag("binary_data_output")),
    )


def _id_of(head: Mapping[str, Any]) -> str:
    """Return the request's id, echoed in the answer: text, of a length that gRPC accepts."""
    value = head.get("id", "")
    if not isinstance(value, str):
        raise InvalidInput("'id' must be a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"'id' has half a character: {error}") from error
    if size > MOST_TEXT:
        raise InputTooLarge(f"'id' has {size} bytes; a request may have {MOST_TEXT} there")
    return value


def write_response(
    served: Served, request: InferRequest, answers: Sequence[AnswerTensor]
) -> tuple[bytes, bytes | None]:
    """Return the response's JSON, and the bytes after it: None when no output is binary.

    Raises InvalidInput for an output without a JSON form.
    """
    binary = {
        output.name: output.is_binary for output in request.outputs if output.is_binary is not None
    }
    tail: list[bytes] = []
    outputs = [
        _output(answer, tail if binary.get(answer.spec.name, request.is_binary) else None)
        for answer in answers
    ]
    head = {"model_name": served.model, "model_version": str(served.version)}
    if request.id:
        head["id"] = request.id
    text = "".join(json_writer.members_text(head, "outputs", json_writer.list_text(outputs)))
    return text.encode(), b"".join(tail) if tail else None


def _json_length(content: Content, headers: Headers) -> int | None:
    """Return the length of the JSON at the start of the body; None if the body is all JSON."""
    length = headers.find(JSON_LENGTH)
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()) or len(length) > len(str(len(content))):
        raise _wrong_length(length, content)
    if int(length) > len(content):
        raise _wrong_length(length, content)
    return int(length)


def _wrong_length(length: str, content: Content) -> InvalidInput:
    return InvalidInput(
        f"{JSON_LENGTH.title()} must be the length of the JSON, at most the {len(content)} bytes "
        f"of the body, not {length[:_SHOWN]!r}"
    )


def _objects(head: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = head.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidInput(f"'{key}' must be a list of objects")
    for item in value:
        if not isinstance(item.get("name"), str):
            raise InvalidInput(f"each of '{key}' must have a 'name', a string")
    return value


def _wanted(item: Mapping[str, Any]) -> WantedOutput:
    name = item["name"]
    return WantedOutput.from_parameters(
        name, Parameters.from_json(item.get("parameters"), f"output '{name}'")
    )


def _inputs(items: Sequence[Mapping[str, Any]], tail: memoryview, room: Room) -> list[SentTensor]:
    tensors, start = [], 0
    for item in items:
        parameters = Parameters.from_json(item.get("parameters"), f"input '{item['name']}'")
        size = parameters.count("binary_data_size")
        end = start + (size or 0)
        if end > len(tail):
            raise InvalidInput(
                f"input '{item['name']}' has binary_data_size {size}, and {len(tail) - start} "
                f"bytes are left behind the JSON (its length is the header {JSON_LENGTH.title()})"
            )
        tensors.append(_tensor(item, None if size is None else tail[start:end], room))
        start = end
    if start != len(tail):
        raise InvalidInput(f"{len(tail) - start} bytes behind the JSON belong to no input")
    return tensors


def _tensor(item: Mapping[str, Any], data: memoryview | None, room: Room) -> SentTensor:
    name, shape, datatype = item["name"], item.get("shape"), item.get("datatype")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise InvalidInput(f"input '{name}' must have a 'shape', a list of integers")
    if not isinstance(datatype, str):
        raise InvalidInput(f"input '{name}' must have a 'datatype', a string")
    if (data is None) == ("data" not in item):
        raise InvalidInput(
            f"input '{name}' must have exactly one of 'data' and the parameter 'binary_data_size'"
        )
    sizes = tuple(shape)
    read: Callable[[TensorSpec, int], Array]
    if data is None:
        read = partial(from_json, shape=sizes, data=item["data"])
    else:
        read = partial(from_bytes, data=data, room=room)
    return SentTensor(name, datatype, sizes, read)


def from_json(spec: TensorSpec, count: int, *, shape: tuple[int, ...], data: Any) -> Array:
    """Return the `count` values of a list, flat or nested as the shape is, as a flat array.

    Raises InvalidInput naming the input.
    """
    if spec.dtype in RAW_ONLY:
        raise InvalidInput(
            f"input '{spec.name}' is {spec.dtype.oip_name}, which has no form in JSON: send it "
            "binary, with the parameter binary_data_size"
        )
    nested, flat = flatten(spec.name, data)
    if nested not in (shape, (count,)) and not (count == 0 and not flat and nested):
        raise InvalidInput(
            f"the data of input '{spec.name}' is {_described(nested)}; its shape {list(shape)} "
            f"takes a list of {count} values, or lists of that shape"
        )
    if spec.dtype is DType.BYTES and types_of(flat) - {str}:
        raise InvalidInput(f"the data of input '{spec.name}' must be strings, as it is BYTES")
    if kind := misplaced_type(spec, flat):
        raise InvalidInput(misplaced_text(spec, kind))
    return to_flat_array(spec, flat, overflows=False)


def to_json(spec: TensorSpec, value: Array) -> list[Any]:
    """Return the array as a flat list. Raises InvalidInput for values without a JSON form.

    NaN and the infinities are written as bare words, as in TensorFlow Serving.
    """
    if spec.dtype is DType.BYTES:
        return [_text(spec, item) for item in byte_strings(value)]
    if spec.dtype in RAW_ONLY:
        raise InvalidInput(
            f"output '{spec.name}' is {spec.dtype.oip_name}, which has no form in JSON",
            hint="ask for it with the parameter binary_data",
        )
    numbers: list[Any] = from_numbers(spec, value.reshape(-1))
    return numbers


def _described(nested: tuple[int, ...]) -> str:
    if not nested:
        return "one value"
    return f"a list of {nested[0]}" if len(nested) == 1 else f"lists of the shape {list(nested)}"


def _text(spec: TensorSpec, item: bytes) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"output '{spec.name}' has bytes that are not UTF-8, which JSON has no form for: "
            f"{item[:_SHOWN]!r}",
            hint="ask for it with the parameter binary_data",
        ) from error


def _output(answer: AnswerTensor, tail: list[bytes] | None) -> json_writer.Text:
    """Return the JSON of one output; its bytes are added to `tail` if there is one."""
    spec, value = answer.spec, answer.value
    described: dict[str, Any] = {
        "name": spec.name,
        "datatype": datatype_of(spec),
        "shape": list(value.shape),
    }
    if tail is not None:
        tail.append(to_bytes(spec, value))
        described["parameters"] = {"binary_data_size": len(tail[-1])}
        return (json_writer.dumps(described),)
    data = json_writer.array_text(value.reshape(-1), partial(to_json, spec))
    return json_writer.members_text(described, "data", data)
