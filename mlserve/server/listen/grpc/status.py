"""gRPC status codes, and the exception that ends a call with one."""

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
"""The numbers of gRPC's status codes by name (statuscodes.md of grpc/grpc)."""

Metadata = Sequence[tuple[str, str | bytes]]
"""Keys and values that go with a call or an answer; values of `-bin` keys are bytes."""


class GrpcStatus(Exception):
    """Ends a call without an answer: a code by name, a text, and trailing metadata."""

    def __init__(self, code: str, text: str, trailing: Metadata = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.trailing = trailing
