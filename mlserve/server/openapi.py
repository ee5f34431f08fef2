"""The OpenAPI document of the REST port, for both protocols."""

from __future__ import annotations

from mlserve import __version__
from mlserve.server.openapi_schemas import SCHEMAS, TEXT, Json, list_of, object_of, ref
from mlserve.wire import paths
from mlserve.wire.headers import (
    HINT,
    JSON_LENGTH,
    REQUEST_ID,
    REQUEST_TIMEOUT_MS,
    SERVER_TIMING,
    TRACEPARENT,
    over_http,
)

METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")
"""The paths of the metrics page; the second is TensorFlow Serving's customary one."""
DOCUMENT_PATH = "/openapi.json"
PAGES = ("/", "/docs")
"""The pages for people, which a server need not have."""


def _answer(description: str, schema: Json, *kinds: str) -> Json:
    content = {kind: {"schema": schema} for kind in kinds or ("application/json",)}
    return {"description": description, "headers": _TOLD, "content": content}


def _header(name: str, description: str) -> Json:
    schema = {"type": "integer", "minimum": 0, "maximum": 10**12}
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _get(summary: str, answer: Json, *errors: int, query: tuple[Json, ...] = ()) -> Json:
    operation = {
        "summary": summary,
        "parameters": [*_NAMED, *query],
        "responses": {"200": answer, **_errors(401, *errors)},
    }
    return {"get": operation}


def _health(summary: str, answer: Json, *errors: int) -> Json:
    """Describe a GET that needs no token, so that a probe without secrets works."""
    operation = _get(summary, answer, *errors)["get"]
    del operation["responses"]["401"]
    return {"get": {**operation, "security": []}}


def _post(summary: str, body: Json, answer: Json, *, headers: tuple[Json, ...] = ()) -> Json:
    operation = {
        "summary": summary,
        "parameters": [_TIMEOUT, *_NAMED, *headers],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _timed(answer),
            **_errors(400, 401, 404, 413, 415, 429, 500, 503, 504),
        },
    }
    return {"post": operation}


def _repository(summary: str, body: Json, answer: Json, *errors: int) -> Json:
    """Describe a POST about the model repository; its body is optional."""
    operation = {
        "summary": summary,
        "parameters": [_TIMEOUT, *_NAMED],
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": {"200": answer, **_errors(400, 401, 413, 504, *errors)},
    }
    return {"post": operation}


def _timed(answer: Json) -> Json:
    return {**answer, "headers": {**_TOLD, **_TIMED}}


def _errors(*statuses: int) -> Json:
    told = {**_TOLD, over_http(HINT): _HINT}
    return {
        str(status): {**_answer(_ERRORS[status], ref("Error")), "headers": told}
        for status in statuses
    }


def _on_model(path: str, operations: Json) -> Json:
    """Return the operations on the latest version and on a version that the caller chooses."""
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
    401: "the request has no token, or a wrong one",
    403: "this server does not let this caller load or unload models",
    404: "no such model, version or signature",
    413: "the request or an image in it is too large",
    415: "an input is not an image",
    429: "there is no room to answer in time; Retry-After says when to come back",
    500: "the model failed",
    503: "starting or shutting down",
    504: "the deadline passed",
}
_MODEL: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_VERSION: Json = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
}
_TIMEOUT = _header(REQUEST_TIMEOUT_MS.title(), "how long the caller waits, in milliseconds")
_NAMED: tuple[Json, ...] = (
    {
        "name": REQUEST_ID,
        "in": "header",
        "description": "the caller's name for the request, in the log and in the answer",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    {
        "name": TRACEPARENT,
        "in": "header",
        "description": "the caller's span, as W3C Trace Context writes it",
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
)
_TOLD: Json = {
    REQUEST_ID: {
        "description": "the caller's name for the request, or one that the server made",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    TRACEPARENT: {
        "description": "the server's span in the caller's trace, or in a new one",
        "required": True,
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
}
_HINT: Json = {"description": "what to do about it, if there is more to say", "schema": TEXT}
_TIMED: Json = {
    SERVER_TIMING: {
        "description": "milliseconds in the server: queue, decode, run, encode; in an error, "
        "those of the stages that were reached",
        "schema": {"type": "string"},
    },
}
_JSON_LENGTH = _header(
    JSON_LENGTH.title(),
    "the length of the JSON in a body that goes on with binary tensors; 0: the body is the value "
    "of the only input, and the outputs come back in binary form",
)
_SIGNATURE: Json = {
    "name": "signature",
    "in": "query",
    "description": "which signature to describe, in place of the default one",
    "schema": {"type": "string"},
}
_REQUEST_ID: Json = {
    "name": "request_id",
    "in": "query",
    "description": "only the calls with this id",
    "schema": {"type": "string"},
}
_HTML = _answer("the page", TEXT, "text/html")
_DONE: Json = {"description": "done", "headers": _TOLD}
_CONTROL = object_of(
    {},
    {
        "parameters": {
            "type": "object",
            "properties": {"unload_dependents": {"type": "boolean"}},
            "additionalProperties": False,
        }
    },
)
_IMAGES: Json = {
    "image/*": {"schema": {}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": list_of({"type": "string", "contentMediaType": "image/jpeg"}),
                "signature_name": TEXT,
            },
        }
    },
}
"""A body of nothing but image files, for a signature with a single input of bytes."""
_BINARY: Json = {"application/octet-stream": {"schema": {}}}
_INFER_ANSWER: Json = {
    "description": "the outputs, in JSON or in binary form as they were asked for",
    "content": {"application/json": {"schema": ref("InferResponse")}, **_BINARY},
}

DOCUMENT: Json = {
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
                object_of(
                    {"name": TEXT, "version": TEXT, "extensions": list_of(TEXT)},
                    {"parameters": {"type": "object", "description": "limits, and the load now"}},
                ),
            ),
        ),
        "/v2/health/live": _health(
            "Whether the server runs", _answer("it runs", object_of({"live": {"const": True}}))
        ),
        "/v2/health/ready": _health(
            "Whether the server would answer a request now",
            _answer("it would", object_of({"live": {"const": True}, "ready": {"const": True}})),
            503,
        ),
        **_on_model(
            "/v2/models/{model}",
            _get(
                "Inputs and outputs of a model",
                _answer("the model", ref("ModelMetadata")),
                *(400, 404, 503),
                query=(_SIGNATURE,),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/ready",
            _get(
                "Whether a model would answer a request now",
                _answer("it would", object_of({"name": TEXT, "ready": {"const": True}})),
                *(404, 503),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/infer",
            _post(
                "Run a model on tensors",
                {"application/json": {"schema": ref("InferRequest")}, **_BINARY, **_IMAGES},
                _INFER_ANSWER,
                headers=(_JSON_LENGTH,),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/config",
            _get(
                "How a model is configured, in Triton's words",
                _answer("the configuration", ref("ModelConfig")),
                *(400, 404, 503),
            ),
        ),
        **_on_model(
            "/v2/models/{model}/stats",
            _get(
                "How many requests a model has had, and how long they took",
                _answer("the statistics", ref("ModelStatistics")),
                404,
            ),
        ),
        "/v2/models/stats": _get(
            "How many requests all models have had",
            _answer("the statistics", ref("ModelStatistics")),
        ),
        "/v2/repository/index": _repository(
            "The models, their versions and the states of these",
            object_of({}, {"ready": {"type": "boolean"}}),
            _answer("the versions", ref("RepositoryIndex")),
        ),
        "/v2/repository/models/{model}/unload": {
            "parameters": [_MODEL],
            **_repository("Unload a model after its last request", _CONTROL, _DONE, 403, 404, 503),
        },
        "/v2/repository/models/{model}/load": {
            "parameters": [_MODEL],
            **_repository("Load a model, and its new versions", _CONTROL, _DONE, 403, 404, 503),
        },
        **_on_model(
            "/v1/models/{model}",
            _get(
                "The state of each version of a model",
                _answer("the states", ref("ModelStatus")),
                404,
            ),
        ),
        **_on_model(
            "/v1/models/{model}/metadata",
            _get(
                "The signatures of a model",
                _answer("the signatures", ref("SignatureMetadata")),
                *(404, 503),
            ),
        ),
        **_on_model(
            "/v1/models/{model}:predict",
            _post(
                "Run a model on rows (instances) or columns (inputs)",
                {"application/json": {"schema": ref("PredictRequest")}, **_IMAGES},
                _answer("predictions for instances, outputs for inputs", ref("PredictResponse")),
            ),
        ),
        **_on_model(
            "/v1/models/{model}:classify",
            _post(
                "Classify examples, with a signature that takes them",
                {"application/json": {"schema": ref("ExamplesRequest")}},
                _answer("the classes of each example", ref("ClassifyResponse")),
            ),
        ),
        **_on_model(
            "/v1/models/{model}:regress",
            _post(
                "Regress examples, with a signature that takes them",
                {"application/json": {"schema": ref("ExamplesRequest")}},
                _answer("the number of each example", ref("RegressResponse")),
            ),
        ),
        paths.DECISIONS: _get(
            "The last decisions on who was let in",
            _answer(
                "the decisions on the last calls, the oldest first: a row of `calls` for each",
                ref("Decisions"),
            ),
            query=(_REQUEST_ID,),
        ),
        paths.SHADOW: _get(
            "What a second version of a model has shown: its shadow, or a split of its requests",
            _answer("the shadows and splits, by model", ref("Rollouts")),
        ),
        METRICS_PATHS[0]: _get(
            "The metrics of the server; the same at " + METRICS_PATHS[1],
            _answer(
                "the metrics, in the format that Accept asks for",
                {"type": "string"},
                *("text/plain", "application/openmetrics-text"),
            ),
        ),
        PAGES[0]: _health("A page for people: ask a model, see the load", _HTML),
        PAGES[1]: _health("This document as a page", _HTML),
        DOCUMENT_PATH: _get("This document", _answer("the document", {"type": "object"})),
    },
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{}, {"token": []}],
}
