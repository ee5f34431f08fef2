"""The Open Inference Protocol v2 over REST, with the binary tensor extension; no I/O.

JSON cannot hold an image's bytes, so they follow the request's JSON in binary form. Answers are
requested in JSON, and read in either form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from mlserve.client.adapter import Call, ImageRequest, ModelRef, Reply, SignatureChoice, number_of
from mlserve.client.answers import Answer, Column, ModelMetadata, Value
from mlserve.client.codecs import column, excerpt, parse_json, shown
from mlserve.client.oip import Declared, described, microseconds, raw_column
from mlserve.client.refusals import Unreadable
from mlserve.wire.headers import JSON_LENGTH
from mlserve.wire.tensors import pack_string

BINARY = "binary_tensor_data"
"""The extension that lets tensors follow the JSON of a request."""
_WRONG = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
"""Raised when an answer of another shape is read."""


class OipRest:
    """The adapter for `/v2/models/...`: infer, metadata and ready."""

    def predict_call(
        self, model: ModelRef, choice: SignatureChoice, request: ImageRequest, seconds: float
    ) -> Call:
        tensor: dict[str, Any] = {"name": choice.input, "shape": choice.shape, "datatype": "BYTES"}
        path = _path(model) + "/infer"
        if not choice.is_binary:
            tensor["parameters"] = {"content_type": "base64"}
            tensor["data"] = [base64.b64encode(request.image).decode("ascii")]
            return Call(path, json.dumps(_body(choice, request, seconds, tensor)).encode())
        binary = pack_string(request.image)
        tensor["parameters"] = {"binary_data_size": len(binary)}
        head = json.dumps(_body(choice, request, seconds, tensor)).encode()
        headers = {JSON_LENGTH: str(len(head)), "content-type": "application/octet-stream"}
        return Call(path, head + binary, headers)

    def read_answer(self, reply: Reply) -> Answer:
        size = _json_size(reply)
        head, binary = reply.body[:size], reply.body[size:]
        data = parse_json(head)
        try:
            outputs = dict(_columns(data["outputs"], binary))
            version = number_of(str(data.get("model_version", "")))
        except Unreadable:
            raise
        except _WRONG as error:
            raise Unreadable("an infer answer with outputs", excerpt(head)) from error
        return Answer(outputs, version)

    def metadata_call(self, model: ModelRef) -> Call:
        return Call(_path(model), None)

    def read_metadata(self, model: ModelRef, reply: Reply) -> ModelMetadata:
        data = parse_json(reply.body)
        try:
            versions = _versions(data)
            inputs, outputs = _declared(data, "inputs"), _declared(data, "outputs")
            return described(model, versions, _selectable(data), inputs, outputs)
        except _WRONG as error:
            raise Unreadable("the metadata of a model", excerpt(reply.body)) from error

    def read_versions(self, reply: Reply) -> tuple[str, ...]:
        data = parse_json(reply.body)
        try:
            _declared(data, "inputs")
            return _versions(data)
        except _WRONG as error:
            raise Unreadable("the metadata of a model", excerpt(reply.body)) from error

    def extensions_call(self) -> Call | None:
        return Call("/v2", None)

    def read_extensions(self, reply: Reply) -> frozenset[str]:
        try:
            return frozenset(map(str, parse_json(reply.body)["extensions"]))
        except _WRONG as error:
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


def _body(
    choice: SignatureChoice, request: ImageRequest, seconds: float, tensor: dict[str, Any]
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "timeout": microseconds(seconds),
        "binary_data_output": False,
    }
    if choice.signature:
        parameters["signature"] = choice.signature
    body: dict[str, Any] = {"parameters": parameters, "inputs": [tensor]}
    if choice.scores:
        wanted = {"classification": request.count, "binary_data": False}
        body["outputs"] = [{"name": choice.scores, "parameters": wanted}]
    return body


def _versions(data: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(version) for version in data.get("versions") or ())


def _selectable(data: dict[str, Any]) -> tuple[str, ...]:
    """Return the signatures that an mlserve server lists among the parameters."""
    parameters = data.get("parameters") or {}
    return tuple(str(name) for name in parameters.get("signatures") or ())


def _declared(data: dict[str, Any], key: str) -> list[Declared]:
    """Return the tensors of that key; none if the model has no metadata of its own."""
    if "name" not in data:
        raise KeyError("name")
    tensors = data.get(key) or ()
    return [(str(t["name"]), str(t["datatype"]), [int(s) for s in t["shape"]]) for t in tensors]


def _columns(outputs: Any, binary: bytes) -> Iterator[tuple[str, Column]]:
    at = 0
    for output in outputs:
        name, shape = str(output["name"]), tuple(int(size) for size in output["shape"])
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            yield name, column(name, shape, tuple(_flat(name, output["data"])))
        else:
            yield name, raw_column(name, output["datatype"], shape, binary[at : at + int(size)])
            at += int(size)


def _flat(name: str, data: Any) -> Iterator[Value]:
    """Yield the values of nested lists, in order."""
    pending = [iter([data])]
    while pending:
        for item in pending[-1]:
            if isinstance(item, list):
                pending.append(iter(item))
                break
            if not isinstance(item, str | int | float):
                raise Unreadable(f"an output {name!r}", shown(item))
            yield item
        else:
            pending.pop()
