"""The headers that client and server agree on, each once: HTTP headers and keys of gRPC metadata.

All are in lower case, as gRPC's metadata and HTTP/2 have them; HTTP/1.1 does not care. mlserve's
own begin with `mlserve-` in gRPC metadata and with `x-mlserve-` over HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

REQUEST_ID = "x-request-id"
"""The request's id: the client's, or one of the server's."""
TRACEPARENT = "traceparent"
"""W3C's header with the caller's span in the request, and with the server's in the answer."""
SERVER_TIMING = "server-timing"
"""W3C's header of the answer with the times of the stages, in milliseconds."""
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds that an HTTP client waits; gRPC has `grpc-timeout` for that."""
ENVOY_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms"
"""The same, as Envoy tells the server behind it."""
RETRY_AFTER = "retry-after"
"""When to ask again, in whole seconds (RFC 9110)."""
RETRY_AFTER_MS = "retry-after-ms"
"""The same in milliseconds; it goes first where both are given."""
RETRY_PUSHBACK_MS = "grpc-retry-pushback-ms"
"""When to ask again, in gRPC's trailers (gRFC A6); a negative number means never."""
JSON_LENGTH = "inference-header-content-length"
"""Bytes of JSON at the beginning of a body whose tensors follow in binary form (OIP)."""

RANDOM_WEIGHTS = "mlserve-random-weights"
"""`1` on an answer that means nothing, as the model's weights are random."""
CONTRACT = "mlserve-contract"
"""JSON: what the model takes and gives, beside its metadata."""
MODEL_VERSION = "mlserve-model-version"
"""The version that answered. Only over HTTP: messages of gRPC have a field for it."""
SIGNATURE = "mlserve-signature"
"""The signature whose metadata are asked for, and are answered (OIP over gRPC)."""
SIGNATURES = "mlserve-signatures"
"""The names of all signatures, with commas (OIP over gRPC)."""
LIMITS = "mlserve-limits"
"""JSON: the limits of the server (OIP over gRPC)."""
LOAD = "mlserve-load"
"""JSON: the requests that run and wait (OIP over gRPC)."""

STAGES = ("queue", "decode", "run", "encode")
"""The stages of a request in the server, in their order: the metrics of `Server-Timing`."""
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}"  # a version: never ff, and 00 has no more than its 55 characters
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


def over_http(key: str) -> str:
    """The HTTP header for a key of mlserve's own in gRPC metadata."""
    return f"x-{key}"


def own_header(headers: Mapping[str, str], key: str) -> str:
    """The value of a key of mlserve's own, whichever transport it came by; empty without one."""
    return headers.get(key) or headers.get(over_http(key)) or ""


def read_traceparent(text: str) -> tuple[str, ...] | None:
    """The trace id (32 hex digits), the caller's span id (16), the flags (2); None: malformed.

    The form is that of W3C Trace Context, https://www.w3.org/TR/trace-context/.
    """
    match = _TRACEPARENT.fullmatch(text)
    return None if match is None else match.groups()


def write_traceparent(trace_id: str, span_id: str, flags: str) -> str:
    """The header that names that span."""
    return f"00-{trace_id}-{span_id}-{flags}"


def read_server_timing(text: str) -> Mapping[str, float]:
    """Milliseconds by stage, such as {"queue": 1.2, ...}; empty unless all stages are there.

    Other metrics, as proxies add them, are ignored. The form is W3C's,
    https://www.w3.org/TR/server-timing/.
    """
    times: dict[str, float] = {}
    for metric in text.split(","):
        name, *parameters = (piece.strip() for piece in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if name in STAGES and key.strip().lower() == "dur":
                times[name] = _milliseconds(value)
    is_whole = all(math.isfinite(times.get(stage, math.nan)) for stage in STAGES)
    return times if is_whole else {}


def write_server_timing(seconds: Mapping[str, float]) -> str:
    """The header for the seconds of each stage."""
    return ", ".join(f"{stage};dur={value * 1000:.3f}" for stage, value in seconds.items())


def _milliseconds(text: str) -> float:
    """NaN for anything but a time."""
    try:
        value = float(text.strip().strip('"'))
    except ValueError:
        return math.nan
    return value if value >= 0 else math.nan
