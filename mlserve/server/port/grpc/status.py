"""How a call ends: gRPC's status codes, and what stops a call before its answer."""

from __future__ import annotations

from collections.abc import Sequence

CODES = {
    name: number
    for number, name in enumerate(
        (
            *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
            *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
            *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
            "UNAUTHENTICATED",
        )
    )
}
"""gRPC's status codes by name (statuscodes.md of grpc/grpc)."""

Metadata = Sequence[tuple[str, str | bytes]]


class Status(Exception):
    """What a call ends with in place of an answer: a code by name, a text, trailing metadata."""

    def __init__(self, code: str, text: str, trailing: Metadata = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.trailing = trailing


class Malformed(Exception):
    """A request that is not one of gRPC's at all: its stream is reset, or told an HTTP status."""

    def __init__(self, why: str, http_status: int | None = None) -> None:
        super().__init__(why)
        self.http_status = http_status
