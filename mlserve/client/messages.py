"""Protobuf answers: parsed, or named as what they are not."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mlserve.client.refusals import Unreadable

M = TypeVar("M", bound=Message)


def parse(kind: type[M], body: bytes) -> M:
    """The message in `body`. Raises Unreadable."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Unreadable(f"a {kind.DESCRIPTOR.name}", f"{len(body)} bytes, {error}") from error
