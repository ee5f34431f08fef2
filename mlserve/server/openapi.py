"""The OpenAPI document of the REST port, both protocols, served at `/openapi.json`."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request  # noqa: TID253
from starlette.responses import Response  # noqa: TID253

from mlserve import __version__
from mlserve.server.rest import check_method, json_response
from mlserve.tensors import DType

PATH = "/openapi.json"

_Json = dict[str, Any]


class OpenApi:
    """The page with the document."""

    async def respond(self, request: Request) -> Response | None:
        """The document; None for any other path."""
        if request.url.path != PATH:
            return None
        check_method(request, "GET")
        return json_response(json.dumps(DOCUMENT).encode())


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(items: _Json) -> _Json:
    return {"type": "array", "items": items}


def _object(required: _Json, optional: _Json | None = None) -> _Json:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def _answer(description: str, schema: _Json, kind: str = "application/json") -> _Json:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _header(name: str, description: str) -> _Json:
    schema = {"type": "integer", "minimum": 0, "maximum": 10**12}
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _get(summary: str, answer: _Json, *errors: int, query: tuple[_Json, ...] = ()) -> _Json:
    operation = {"summary": summary, "responses": {"200": answer, **_errors(*errors)}}
    return {"get": {**operation, "parameters": list(query)} if query else operation}


def _post(summary: str, body: _Json, answer: _Json, *, headers: tuple[_Json, ...] = ()) -> _Json:
    operation = {
        "summary": summary,
        "parameters": [_TIMEOUT, *headers],
        "requestBody": {"required": True, "content": body},
        "responses": {"200": answer, **_errors(400, 404, 413, 415, 429, 500, 503, 504)},
    }
    return {"post": operation}


def _errors(*statuses: int) -> _Json:
    return {str(status): _answer(_ERRORS[status], _ref("Error")) for status in statuses}


def _on_model(path: str, operations: _Json) -> _Json:
    """The operations on the latest version, and the same on a version of the caller's choice."""
    head, _, tail = path.partition("{model}")
    return {
        path: {"parameters": [_MODEL], **operations},
        f"{head}{{model}}/versions/{{version}}{tail}": {
            "parameters": [_MODEL, _VERSION],
            **operations,
        },
    }


_ERRORS = {
    400: "the request does not fit the model, or is not well-formed",
    404: "no such model, version or signature",
    413: "the request or an image in it is too large",
    415: "an input is not an image",
    429: "the queue is full; Retry-After says when to come back",
    500: "the model failed",
    503: "starting or shutting down",
    504: "the deadline passed",
}
_MODEL: _Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_VERSION: _Json = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
}
_TIMEOUT = _header("X-Request-Timeout-Ms", "how long the caller waits, in milliseconds")
_JSON_LENGTH = _header(
    "Inference-Header-Content-Length",
    "the length of the JSON in a body that goes on with binary tensors; 0: the body is the value "
    "of the only input, and the outputs come back in binary form",
)
_SIGNATURE: _Json = {
    "name": "signature",
    "in": "query",
    "description": "which signature to describe, in place of the default one",
    "schema": {"type": "string"},
}
_TEXT: _Json = {"type": "string"}
_PARAMETERS: _Json = {
    "type": "object",
    "additionalProperties": {"type": ["boolean", "number", "string"]},
}
_SHAPE = _list_of({"type": "integer", "minimum": 0})
_DATATYPE: _Json = {"type": "string", "enum": [d.oip_name for d in DType if d.oip_name]}
_TENSOR: _Json = {"name": _TEXT, "shape": _SHAPE, "datatype": _DATATYPE}
_METADATA = _list_of(
    _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _list_of({"type": "integer"})})
)
_STATES = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]

_SCHEMAS: _Json = {
    "Error": _object({"error": _TEXT}),
    "InferRequest": _object(
        {
            "inputs": _list_of(
                _object(_TENSOR, {"data": {"type": "array"}, "parameters": _PARAMETERS})
            )
        },
        {
            "id": _TEXT,
            "parameters": {
                **_PARAMETERS,
                "properties": {
                    "signature": {"type": "string", "description": "which signature to run"},
                    "timeout": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "how long the caller waits, in microseconds; 0: not said",
                    },
                    "binary_data_output": {"type": "boolean"},
                },
            },
            "outputs": _list_of(
                _object(
                    {"name": _TEXT},
                    {
                        "parameters": {
                            **_PARAMETERS,
                            "properties": {
                                "classification": {"type": "integer", "minimum": 0},
                                "binary_data": {"type": "boolean"},
                            },
                        }
                    },
                )
            ),
        },
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list_of(
                _object(_TENSOR, {"data": {"type": "array"}, "parameters": _PARAMETERS})
            ),
        },
        {"id": _TEXT},
    ),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list_of(_TEXT),
            "platform": _TEXT,
            "inputs": _METADATA,
            "outputs": _METADATA,
            "parameters": _object({"signature": _TEXT, "signatures": _list_of(_TEXT)}),
        }
    ),
    "PredictRequest": {
        "type": "object",
        "properties": {"signature_name": _TEXT, "instances": {"type": "array"}, "inputs": {}},
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "PredictResponse": {
        "type": "object",
        "properties": {"predictions": {"type": "array"}, "outputs": {}},
        "oneOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
    },
    "ModelStatus": _object(
        {
            "model_version_status": _list_of(
                _object(
                    {
                        "version": _TEXT,
                        "state": {"type": "string", "enum": _STATES},
                        "status": _object({"error_code": _TEXT, "error_message": _TEXT}),
                    }
                )
            )
        }
    ),
    "SignatureMetadata": _object(
        {"model_spec": {"type": "object"}, "metadata": {"type": "object"}}
    ),
}
_BINARY: _Json = {"application/octet-stream": {"schema": {}}}
_INFER_ANSWER: _Json = {
    "description": "the outputs, in JSON or in binary form as they were asked for",
    "content": {"application/json": {"schema": _ref("InferResponse")}, **_BINARY},
}

DOCUMENT: _Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "mlserve",
        "version": __version__,
        "description": "TensorFlow Serving's REST API (/v1) and the Open Inference Protocol (/v2).",
    },
    "paths": {
        "/v2": _get(
            "Name, version and extensions of the server",
            _answer(
                "the server",
                _object({"name": _TEXT, "version": _TEXT, "extensions": _list_of(_TEXT)}),
            ),
        ),
        "/v2/health/live": _get(
            "Whether the server runs", _answer("it runs", _object({"live": {"const": True}}))
        ),
        "/v2/health/ready": _get(
            "Whether the server would answer a request now",
            _answer("it would", _object({"live": {"const": True}, "ready": {"const": True}})),
            503,
        ),
        **_on_model(
            "/v2/models/{model}",
            _get(
                "Inputs and outputs of a model",
                _answer("the model", _ref("ModelMetadata")),
                *(400, 404, 503),
                query=(_SIGNATURE,),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/ready",
            _get(
                "Whether a model would answer a request now",
                _answer("it would", _object({"name": _TEXT, "ready": {"const": True}})),
                *(404, 503),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/infer",
            _post(
                "Run a model on tensors",
                {"application/json": {"schema": _ref("InferRequest")}, **_BINARY},
                _INFER_ANSWER,
                headers=(_JSON_LENGTH,),
            ),
        ),
        **_on_model(
            "/v1/models/{model}",
            _get(
                "The state of each version of a model",
                _answer("the states", _ref("ModelStatus")),
                404,
            ),
        ),
        **_on_model(
            "/v1/models/{model}/metadata",
            _get(
                "The signatures of a model",
                _answer("the signatures", _ref("SignatureMetadata")),
                *(404, 503),
            ),
        ),
        **_on_model(
            "/v1/models/{model}:predict",
            _post(
                "Run a model on rows (instances) or columns (inputs)",
                {"application/json": {"schema": _ref("PredictRequest")}},
                _answer("predictions for instances, outputs for inputs", _ref("PredictResponse")),
            ),
        ),
        PATH: _get("This document", _answer("the document", {"type": "object"})),
    },
    "components": {"schemas": _SCHEMAS},
}
