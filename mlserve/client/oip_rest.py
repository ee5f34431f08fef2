"""The Open Inference Protocol v2 over REST, with the binary tensor extension; no I/O.

Tensors follow the request's JSON in binary form where the server reads that. Answers are read in
either form.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from mlserve.client.adapter import Call, InferRequest, ModelRef, Reply, ServerAbout, number_of
from mlserve.client.answers import Answer, ModelMetadata
from mlserve.client.codecs import (
    MOST_OF_TENSORS,
    MOST_VALUES,
    OVER_GRPC,
    WRONG,
    checked,
    excerpt,
    parse_json,
    shown,
)
from mlserve.client.oip import (
    DTYPES,
    Declared,
    datatype_of,
    described,
    microseconds,
    raw_data,
    raw_output,
)
from mlserve.client.refusals import Unreadable
from mlserve.client.tensor import Tensor, Value
from mlserve.errors import InvalidInput
from mlserve.tensors import DType
from mlserve.wire.headers import JSON_LENGTH

_BASE64 = "base64"
NO_NAN = f"JSON has neither NaN nor infinity; {OVER_GRPC}"
BINARY = "binary_tensor_data"
"""The extension that lets tensors follow the JSON of a request."""


class OipRest:
    """The adapter for `/v2/models/...`: infer, metadata and ready."""

    def infer_call(self, model: ModelRef, request: InferRequest, seconds: float) -> Call:
        path = _path(model) + "/infer"
        inputs = request.inputs.items()
        if not request.is_binary:
            tensors = [
                _described(name, tensor) | _in_json(name, tensor, request)
                for name, tensor in inputs
            ]
            return Call(path, json.dumps(_body(request, seconds, tensors)).encode())
        binary = [raw_data(tensor) for tensor in request.inputs.values()]
        tensors = [
            _described(name, tensor) | {"parameters": {"binary_data_size": len(data)}}
            for (name, tensor), data in zip(inputs, binary, strict=True)
        ]
        head = json.dumps(_body(request, seconds, tensors)).encode()
        headers = {JSON_LENGTH: str(len(head)), "content-type": "application/octet-stream"}
        return Call(path, b"".join([head, *binary]), headers)

    def read_answer(self, reply: Reply, *, is_bounded: bool = True) -> Answer:
        size, most = _json_size(reply), MOST_VALUES if is_bounded else None
        head, binary = reply.body[:size], reply.body[size:]
        data = parse_json(head, MOST_VALUES if is_bounded else MOST_OF_TENSORS)
        try:
            outputs = dict(_outputs(data["outputs"], binary, most))
            version = number_of(str(data.get("model_version", "")))
        except Unreadable:
            raise
        except WRONG as error:
            raise Unreadable("an infer answer with outputs", excerpt(head)) from error
        return Answer(outputs, version)

    def metadata_call(self, model: ModelRef, signature: str = "") -> Call:
        query = f"?signature={quote(signature, safe='')}" if signature else ""
        return Call(_path(model) + query, None)

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        data = parse_json(reply.body)
        try:
            versions = _versions(data)
            inputs, outputs = _declared(data, "inputs"), _declared(data, "outputs")
            selectable, optional = _names(data, "signatures"), _names(data, "optional")
            return described(model, versions, selectable, inputs, outputs, optional)
        except WRONG as error:
            raise Unreadable("the metadata of a model", excerpt(reply.body)) from error

    def read_versions(self, reply: Reply) -> tuple[str, ...]:
        data = parse_json(reply.body)
        try:
            _declared(data, "inputs")
            return _versions(data)
        except WRONG as error:
            raise Unreadable("the metadata of a model", excerpt(reply.body)) from error

    def about_call(self) -> Call | None:
        return Call("/v2", None)

    def read_about(self, reply: Reply) -> ServerAbout:
        try:
            data = parse_json(reply.body)
            return ServerAbout(str(data.get("name", "")), frozenset(map(str, data["extensions"])))
        except WRONG as error:
            raise Unreadable("the metadata of a server", excerpt(reply.body)) from error

    def ready_call(self, model: ModelRef, version: str) -> Call:
        part = f"/versions/{quote(version, safe='')}" if version else ""
        return Call(f"{_path(ModelRef(model.name, None))}{part}/ready", None)

    def read_ready(self, reply: Reply) -> bool:
        """Return whether it is ready; an empty body means yes: "not ready" is an error status."""
        return not reply.body.strip() or parse_json(reply.body).get("ready") is not False


def _path(model: ModelRef) -> str:
    version = "" if model.version is None else f"/versions/{model.version}"
    return f"/v2/models/{quote(model.name, safe='')}{version}"


def _json_size(reply: Reply) -> int:
    """Return the bytes of JSON at the start of the body. Raises Unreadable for a bad header."""
    text = reply.headers.get(JSON_LENGTH)
    if text is None:
        return len(reply.body)
    size = number_of(text)
    if size is None or size > len(reply.body):
        raise Unreadable(f"as its {JSON_LENGTH.title()} says", repr(text[:100]))
    return size


def _described(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": tensor.shape, "datatype": datatype_of(tensor)}


def _in_json(name: str, tensor: Tensor, request: InferRequest) -> dict[str, Any]:
    """Return the members that hold the elements in JSON: strings as text, or all in base64.

    How base64 is marked is MLServer's way. Raises InvalidInput for bytes that are not text and that
    the server would not decode.
    """
    if tensor.dtype is not DType.BYTES:
        return {"data": tensor.elements}
    try:
        if not request.is_file:
            return {"data": [item.decode() for item in tensor.elements]}
    except UnicodeDecodeError as error:
        if not request.reads_base64:
            raise InvalidInput(
                f"input '{name}' has bytes that are not UTF-8, which JSON cannot hold, and this "
                "server reads nothing else over REST",
                hint=OVER_GRPC,
            ) from error
    data = [base64.b64encode(item).decode("ascii") for item in tensor.elements]
    return {"parameters": {"content_type": _BASE64}, "data": data}


def _body(request: InferRequest, seconds: float, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"binary_data_output": request.wants_binary}
    if seconds < math.inf:
        parameters["timeout"] = microseconds(seconds)
    if request.signature:
        parameters["signature"] = request.signature
    body: dict[str, Any] = {"parameters": parameters, "inputs": tensors}
    if request.classes:
        name, count = request.classes
        wanted = {"classification": count, "binary_data": False}
        body["outputs"] = [{"name": name, "parameters": wanted}]
    elif request.outputs:
        binary = {"binary_data": request.wants_binary}
        body["outputs"] = [{"name": name, "parameters": binary} for name in request.outputs]
    return body


def _versions(data: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(version) for version in data.get("versions") or ())


def _names(data: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return the names that an mlserve server lists among the parameters."""
    parameters = data.get("parameters") or {}
    return tuple(str(name) for name in parameters.get(key) or ())


def _declared(data: dict[str, Any], key: str) -> list[Declared]:
    """Return the tensors of that key; none if the model has no metadata of its own."""
    if "name" not in data:
        raise KeyError("name")
    tensors = data.get(key) or ()
    return [(str(t["name"]), str(t["datatype"]), [int(s) for s in t["shape"]]) for t in tensors]


def _outputs(outputs: Any, binary: bytes, most: int | None) -> Iterator[tuple[str, Tensor]]:
    at = 0
    for output in outputs:
        name, shape = str(output["name"]), tuple(int(size) for size in output["shape"])
        parameters = output.get("parameters") or {}
        size = parameters.get("binary_data_size")
        if size is None:
            yield name, _from_json(name, shape, output, parameters.get("content_type"), most)
        else:
            raw = binary[at : at + int(size)]
            yield name, raw_output(name, output["datatype"], shape, raw, most)
            at += int(size)


def _from_json(
    name: str, shape: tuple[int, ...], output: Any, content_type: Any, most: int | None
) -> Tensor:
    dtype = DTYPES.get(str(output.get("datatype")))
    data: tuple[Any, ...] = tuple(_flat(name, output["data"]))
    if dtype is DType.BYTES and content_type == _BASE64:
        data = tuple(base64.b64decode(item, validate=True) for item in data)
    return checked(name, shape, data, dtype, most)


def _flat(name: str, data: Any) -> Iterator[Value]:
    """Yield the values of nested lists, in order."""
    pending = [iter([data])]
    while pending:
        for item in pending[-1]:
            if isinstance(item, list):
                pending.append(iter(item))
                break
            if item is None:
                raise Unreadable(f"an output {name!r}", "null stands for a number", NO_NAN)
            if not isinstance(item, str | int | float):
                raise Unreadable(f"an output {name!r}", shown(item))
            yield item
        else:
            pending.pop()
