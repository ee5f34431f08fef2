"""Errors on the wire: one table for servers and client, in both directions."""

from __future__ import annotations

import math

from mlserve import errors
from mlserve.wire.headers import PRICE, RETRY_AFTER, RETRY_AFTER_MS, over_http, write_price

_TABLE: tuple[tuple[type[errors.MlserveError], str, int], ...] = (
    # Most specific first: the first matching class is an error's row.
    (errors.DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
    (errors.Overloaded, "RESOURCE_EXHAUSTED", 429),
    (errors.Unavailable, "UNAVAILABLE", 503),
    (errors.NotAllowed, "PERMISSION_DENIED", 403),
    (errors.AccessDenied, "UNAUTHENTICATED", 401),
    (errors.NotFound, "NOT_FOUND", 404),
    (errors.NotYet, "FAILED_PRECONDITION", 400),
    (errors.NotSupported, "UNIMPLEMENTED", 501),
    (errors.NotAnImage, "INVALID_ARGUMENT", 415),
    (errors.InputTooLarge, "INVALID_ARGUMENT", 413),
    (errors.InvalidInput, "INVALID_ARGUMENT", 400),
    (errors.UsageError, "INVALID_ARGUMENT", 400),
    (errors.InferenceFailed, "INTERNAL", 500),
    (errors.MlserveError, "INTERNAL", 500),
)

_ROWS: dict[type[errors.MlserveError], tuple[type[errors.MlserveError], str, int]] = {}
"""The row of each class that has been asked for."""

_FROM_GRPC: dict[str, type[errors.MlserveError]] = {
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "RESOURCE_EXHAUSTED": errors.Overloaded,
    "UNAVAILABLE": errors.Unavailable,
    "CANCELLED": errors.Unavailable,  # gRPC's status for a call that arrives as the server stops
    "NOT_FOUND": errors.NotFound,
    "INVALID_ARGUMENT": errors.InvalidInput,
    "FAILED_PRECONDITION": errors.InvalidInput,
    "OUT_OF_RANGE": errors.InvalidInput,
    "UNIMPLEMENTED": errors.UsageError,
    "UNAUTHENTICATED": errors.AccessDenied,
    "PERMISSION_DENIED": errors.AccessDenied,
}

_FROM_HTTP: dict[int, type[errors.MlserveError]] = {
    400: errors.InvalidInput,
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.NotFound,
    413: errors.InputTooLarge,
    415: errors.NotAnImage,
    422: errors.InvalidInput,
    429: errors.Overloaded,
    501: errors.UsageError,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}

CODES_OF_GRPC = dict(
    enumerate(
        (
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
)
"""Names of gRPC's status codes, which are numbers on the wire."""
GRPC_CODES_OF_HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
"""Meaning of an HTTP status without a gRPC status (http-grpc-status-mapping.md of grpc/grpc)."""


def grpc_status(error: errors.MlserveError) -> str:
    """Return the name of the gRPC status code for the error."""
    return _row(type(error))[1]


def http_status(error: errors.MlserveError) -> int:
    """Return the HTTP status code for the error."""
    return _row(type(error))[2]


def retry_headers(error: errors.MlserveError) -> dict[str, str]:
    """Return the HTTP headers that say when to come back, and the price; none if unknown.

    `Retry-After` is in whole seconds, rounded up, and `Retry-After-Ms` in milliseconds.
    """
    price = error.price if isinstance(error, errors.Overloaded) else None
    headers = {} if price is None else {over_http(PRICE): write_price(price)}
    seconds = error.retry_after if isinstance(error, errors.Transient) else None
    if seconds is None or not math.isfinite(seconds):
        return headers
    return headers | {
        RETRY_AFTER: str(math.ceil(seconds)),
        RETRY_AFTER_MS: str(math.ceil(seconds * 1000)),
    }


def error_from_grpc(code: str) -> type[errors.MlserveError]:
    """Return the error for a gRPC code name; InferenceFailed if it is not in the table."""
    return _FROM_GRPC.get(code, errors.InferenceFailed)


def error_from_http(status: int) -> type[errors.MlserveError]:
    """Return the error for an HTTP status code; InferenceFailed if it is not in the table."""
    return _FROM_HTTP.get(status, errors.InferenceFailed)


def _row(error: type[errors.MlserveError]) -> tuple[type[errors.MlserveError], str, int]:
    row = _ROWS.get(error)
    if row is None:
        row = _ROWS[error] = next(row for row in _TABLE if issubclass(error, row[0]))
    return row
