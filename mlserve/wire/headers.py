"""HTTP headers and gRPC metadata keys shared by client and server, each defined once.

All are in lower case, as gRPC metadata and HTTP/2 require; HTTP/1.1 ignores case. mlserve's own
begin with `mlserve-` in gRPC metadata and with `x-mlserve-` over HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

REQUEST_ID = "x-request-id"
"""The request's id: the client's, or one made by the server."""
TRACEPARENT = "traceparent"
"""W3C's header with the caller's span in the request, and with the server's in the answer."""
TRACESTATE = "tracestate"
"""W3C's header with what tracing systems have noted in the trace."""
SERVER_TIMING = "server-timing"
"""W3C's header of the answer with the times of the stages, in milliseconds."""
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""The client's timeout in milliseconds over HTTP; gRPC has `grpc-timeout`."""
REQUEST_PRIORITY = "x-request-priority"
"""How important the call is: sheddable, default or critical; also gRPC metadata."""
REQUEST_PROBE = "x-request-probe"
"""`1` on a call that only tries whether the server answers, which it does not record; also gRPC
metadata."""
USER_AGENT = "user-agent"
"""The client's name and version, first of all."""
ENVOY_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms"
"""The same, as Envoy sends it to the server behind it."""
RETRY_AFTER = "retry-after"
"""When to retry, in whole seconds (RFC 9110)."""
RETRY_AFTER_MS = "retry-after-ms"
"""The same in milliseconds; takes precedence if both are given."""
RETRY_PUSHBACK_MS = "grpc-retry-pushback-ms"
"""When to retry, in gRPC's trailers (gRFC A6); a negative number means never."""
PRICE = "mlserve-price"
"""With a refusal: the share of calls like this one that the server refuses now, such as `0.83`."""
JSON_LENGTH = "inference-header-content-length"
"""Bytes of JSON at the start of a body whose tensors follow in binary form (OIP)."""

RANDOM_WEIGHTS = "mlserve-random-weights"
"""`1` on a meaningless answer: the model's weights are random."""
CONTRACT = "mlserve-contract"
"""JSON: the model's contract (inputs and outputs), beyond its metadata."""
MODEL_VERSION = "mlserve-model-version"
"""The version that answered. HTTP only: gRPC messages have a field for it."""
SERVED_BY = "mlserve-served-by"
"""What answered: runtime, precision and device, and the state of the model's certificate, such as
`OpenVINO 2026.4.1; int8; CPU; certificate=holds`."""
HINT = "mlserve-hint"
"""With an error: what to do about it, in ASCII on one line. HTTP only."""
RUNG = "mlserve-rung"
"""The rung of a ladder that answered each row, such as `int8, fp32;rows=2, int8;uncertain`."""
DRIFTED = "certificate=drifted"
"""The part of SERVED_BY which says that the model does not answer here as it did at its export."""
SIGNATURE = "mlserve-signature"
"""The signature whose metadata is requested and returned (OIP over gRPC)."""
SIGNATURES = "mlserve-signatures"
"""The names of all signatures, separated by commas (OIP over gRPC)."""
OPTIONAL = "mlserve-optional"
"""The names of its inputs that may be left out, separated by commas (OIP over gRPC)."""
LIMITS = "mlserve-limits"
"""JSON: the limits of the server (OIP over gRPC)."""
LOAD = "mlserve-load"
"""JSON: the running and waiting requests (OIP over gRPC)."""
ASKED = "mlserve-asked"
"""What mlserve's handler in TorchServe is asked for instead of an inference: metadata, ready."""
HANDLER_HEADERS = "mlserve-headers"
"""The parameter of that handler's metadata which holds the headers of mlserve's own server."""

STAGES = ("queue", "decode", "run", "encode")
"""The stages of a request in the server, in order: the metrics of `Server-Timing`."""
_KNOWN_FLAGS = 3
"""Sampled, and that the trace id is random."""
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}"  # a version: never ff, and 00 has no more than its 55 characters
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


def over_http(key: str) -> str:
    """Return the HTTP header for one of mlserve's own gRPC metadata keys."""
    return f"x-{key}"


def own_header(headers: Mapping[str, str], key: str) -> str:
    """Return the value of one of mlserve's own keys, from either transport; empty if absent."""
    return headers.get(key) or headers.get(over_http(key)) or ""


def read_price(text: str) -> float | None:
    """Return a price, 0 to 1; None for anything else."""
    try:
        price = float(text)
    except ValueError:
        return None
    return price if 0 <= price <= 1 else None


def write_price(price: float) -> str:
    """Return the header for a price, with two digits."""
    return f"{price:.2f}"


def read_traceparent(text: str) -> tuple[str, ...] | None:
    """Return the trace id (32 hex digits), span id (16) and flags (2); None if malformed.

    The form is that of W3C Trace Context, https://www.w3.org/TR/trace-context-2/. Flags that it
    does not know are left out, as it asks for what is passed on.
    """
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    return trace_id, span_id, f"{int(flags, 16) & _KNOWN_FLAGS:02x}"


def write_traceparent(trace_id: str, span_id: str, flags: str) -> str:
    """Return the header for that span."""
    return f"00-{trace_id}-{span_id}-{flags}"


def read_server_timing(text: str) -> Mapping[str, float]:
    """Return milliseconds by stage, such as {"queue": 1.2, ...}; empty if any stage is missing.

    Other metrics, such as those added by proxies, are ignored. The form is W3C's,
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
    """Return the header for the seconds of each stage."""
    return ", ".join(f"{stage};dur={value * 1000:.3f}" for stage, value in seconds.items())


def _milliseconds(text: str) -> float:
    """Parse a duration; NaN for anything else."""
    try:
        value = float(text.strip().strip('"'))
    except ValueError:
        return math.nan
    return value if value >= 0 else math.nan
