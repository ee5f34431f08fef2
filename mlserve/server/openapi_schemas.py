"""The schemas of the OpenAPI document: the JSON of requests and responses."""

from __future__ import annotations

from typing import Any

from mlserve.tensors import DType

Json = dict[str, Any]
TEXT: Json = {"type": "string"}


def ref(name: str) -> Json:
    """Return a reference to the named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(items: Json) -> Json:
    """Return the schema of a list of these."""
    return {"type": "array", "items": items}


def object_of(required: Json, optional: Json | None = None) -> Json:
    """Return the schema of an object with these properties."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


def _by_name(value: Json) -> Json:
    return {"type": "object", "additionalProperties": value}


_PARAMETERS: Json = {
    "type": "object",
    "additionalProperties": {"type": ["boolean", "number", "string"]},
}
_NUMBER: Json = {"type": "number"}
_BASE64 = object_of({"b64": TEXT})
_VALUE: Json = {"anyOf": [TEXT, _NUMBER, {"type": "boolean"}, _BASE64]}
_FEATURES: Json = {
    "type": "object",
    "description": "features by name, each a value or a list of values of one type",
    "additionalProperties": {"anyOf": [_VALUE, list_of(_VALUE)]},
}
_SHAPE = list_of({"type": "integer", "minimum": 0})
_DATATYPE: Json = {"type": "string", "enum": [d.oip_name for d in DType if d.oip_name]}
_TENSOR: Json = {"name": TEXT, "shape": _SHAPE, "datatype": _DATATYPE}
_METADATA = list_of(
    object_of({"name": TEXT, "datatype": _DATATYPE, "shape": list_of({"type": "integer"})})
)
_STATES = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]

_COUNT: Json = {"type": "integer", "minimum": 0}
_DURATION = object_of({"count": _COUNT, "ns": _COUNT})
_COMPUTED = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _DURATION)
_CONFIGURED = list_of(
    object_of(
        {"name": TEXT, "data_type": TEXT, "dims": list_of({"type": "integer"})},
        {"optional": {"type": "boolean"}},
    )
)

_INTERVAL: Json = {**list_of(_NUMBER), "minItems": 2, "maxItems": 2}
_COMPARED: Json = {
    **dict.fromkeys(("agrees", "differs", "failed", "dropped", "tops", "same_top"), _COUNT),
    "share": _NUMBER,
    "interval": _INTERVAL,
    "interval_is": TEXT,
}
_NUMBER_OR_NONE: Json = {"type": ["number", "null"]}
_SIDE = object_of({"label": {"type": ["string", "null"]}, "score": _NUMBER_OR_NONE})
_MIRRORED: Json = {
    "asked": {**TEXT, "description": "what was asked, beside what answers"},
    **_COMPARED,
    "signatures": _by_name(object_of(_COMPARED)),
    "last": list_of(
        object_of(
            {
                **dict.fromkeys(("request_id", "at", "signature", "what"), TEXT),
                "served": _SIDE,
                "other": _SIDE,
            }
        )
    ),
    "error": TEXT,
    "error_at": TEXT,
}
_ARM = object_of(
    {
        "version": _COUNT,
        **dict.fromkeys(("asked", "answered", "late", "refused", "failed"), _COUNT),
        **dict.fromkeys(("p50_ms", "p99_ms", "goodput"), _NUMBER_OR_NONE),
        "interval": _INTERVAL,
        "interval_is": TEXT,
    }
)
_ROLLOUT_STATE: Json = {"enum": ["loading", "running", "stopped", "failed", "in use"]}
_VERSION_OR_NONE: Json = {"type": ["integer", "null"]}

SCHEMAS: Json = {
    "ModelConfig": object_of(
        {
            "name": TEXT,
            "platform": TEXT,
            "backend": TEXT,
            "version_policy": {"type": "object"},
            "max_batch_size": _COUNT,
            "input": _CONFIGURED,
            "output": _CONFIGURED,
        },
        {"dynamic_batching": object_of({"max_queue_delay_microseconds": _COUNT})},
    ),
    "ModelStatistics": object_of(
        {
            "model_stats": list_of(
                object_of(
                    {
                        "name": TEXT,
                        "version": TEXT,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": object_of(
                            {
                                **dict.fromkeys(("success", "fail", "queue"), _DURATION),
                                **_COMPUTED,
                                **dict.fromkeys(("cache_hit", "cache_miss"), _DURATION),
                            }
                        ),
                        "batch_stats": list_of(object_of({"batch_size": _COUNT, **_COMPUTED})),
                    }
                )
            )
        }
    ),
    "RepositoryIndex": list_of(
        object_of(
            {
                "name": TEXT,
                "version": TEXT,
                "state": {"enum": ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]},
                "reason": TEXT,
            }
        )
    ),
    "Decisions": object_of(
        {
            "form": {"const": 1},
            "wall": {"type": "number", "description": "when it was made, in seconds since 1970"},
            "server": {"type": "object"},
            "kept": {**_COUNT, "description": "calls that the server remembers"},
            "forgotten": {**_COUNT, "description": "calls before these"},
            "kinds": list_of({"type": "array"}),
            "callers": list_of(list_of(TEXT)),
            "columns": list_of(TEXT),
            "calls": list_of({"type": "array"}),
        }
    ),
    "Rollouts": object_of(
        {
            "shadow": _by_name(
                object_of(
                    {
                        "model": TEXT,
                        "state": _ROLLOUT_STATE,
                        "served": _VERSION_OR_NONE,
                        **_MIRRORED,
                    }
                )
            ),
            "split": _by_name(
                object_of(
                    {
                        "model": TEXT,
                        "version": _COUNT,
                        "share": _NUMBER,
                        "state": _ROLLOUT_STATE,
                        "arms": list_of(_ARM),
                        "checked": object_of(_MIRRORED),
                        **dict.fromkeys(("why", "stopped_at", "error"), TEXT),
                    }
                )
            ),
        }
    ),
    "Error": object_of({"error": TEXT}),
    "InferRequest": object_of(
        {
            "inputs": list_of(
                object_of(_TENSOR, {"data": {"type": "array"}, "parameters": _PARAMETERS})
            )
        },
        {
            "id": TEXT,
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
            "outputs": list_of(
                object_of(
                    {"name": TEXT},
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
    "InferResponse": object_of(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": list_of(
                object_of(_TENSOR, {"data": {"type": "array"}, "parameters": _PARAMETERS})
            ),
        },
        {"id": TEXT},
    ),
    "ModelMetadata": object_of(
        {
            "name": TEXT,
            "versions": list_of(TEXT),
            "platform": TEXT,
            "inputs": _METADATA,
            "outputs": _METADATA,
            "parameters": object_of(
                {
                    "signature": TEXT,
                    "signatures": list_of(TEXT),
                    "optional": list_of(TEXT),
                    "served_by": TEXT,
                }
            ),
        }
    ),
    "PredictRequest": {
        "type": "object",
        "properties": {"signature_name": TEXT, "instances": {"type": "array"}, "inputs": {}},
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "PredictResponse": {
        "type": "object",
        "properties": {"predictions": {"type": "array"}, "outputs": {}},
        "oneOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
    },
    "ExamplesRequest": object_of(
        {"examples": {**list_of(_FEATURES), "minItems": 1}},
        {"context": _FEATURES, "signature_name": TEXT},
    ),
    "ClassifyResponse": object_of(
        {
            "results": list_of(
                list_of(
                    {
                        "type": "array",
                        "prefixItems": [{"anyOf": [TEXT, _BASE64]}, _NUMBER],
                        "minItems": 2,
                        "maxItems": 2,
                    }
                )
            )
        }
    ),
    "RegressResponse": object_of({"results": list_of(_NUMBER)}),
    "ModelStatus": object_of(
        {
            "model_version_status": list_of(
                object_of(
                    {
                        "version": TEXT,
                        "state": {"type": "string", "enum": _STATES},
                        "status": object_of({"error_code": TEXT, "error_message": TEXT}),
                    }
                )
            )
        }
    ),
    "SignatureMetadata": object_of(
        {"model_spec": {"type": "object"}, "metadata": {"type": "object"}}
    ),
}
