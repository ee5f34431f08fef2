"""What clients are told where no replica has answered: mlserve's words, in mlserve's form."""

from __future__ import annotations

from mlserve_ray.ingress.typed import Json, put

_TEXTS = (
    # Envoy's flag, what it means to the caller, the HTTP status and the gRPC status
    ("UH", "no replica of the model is ready", 503, 14),
    ("UT", "the deadline passed while a replica was at work", 504, 4),
    ("DT", "the deadline passed while a replica was at work", 504, 4),
    ("UF", "the replica cannot be reached", 503, 14),
    ("UC", "the replica ended before it had answered", 503, 14),
    ("UR", "the replica broke the request off", 503, 14),
    ("UO", "the server has no room for the request", 429, 8),
    ("UPE", "the replica's answer was not valid HTTP", 502, 14),
    ("DPE", "the request is not valid HTTP", 400, 13),
)


def local_replies(protocol: str) -> Json:
    """Return Envoy's own answers: `{"error": "..."}` over HTTP, a status and text over gRPC."""
    body = "%LOCAL_REPLY_BODY%"
    as_json = {"json_format": {"error": body}, "content_type": "application/json"}
    as_text = {"text_format_source": {"inline_string": body}}
    return {
        "mappers": [_mapper(protocol, *row) for row in _TEXTS],
        "body_format": as_text if protocol == "grpc" else as_json,
    }


def _mapper(protocol: str, flag: str, text: str, status: int, grpc_status: int) -> Json:
    code = {"headers_to_add": [put("grpc-status", str(grpc_status))["append"]]}
    return {
        **(code if protocol == "grpc" else {}),
        "filter": {"response_flag_filter": {"flags": [flag]}},
        "status_code": status,
        "body": {"inline_string": text},
    }
