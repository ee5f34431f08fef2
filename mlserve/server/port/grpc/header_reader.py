"""The headers of a request: HEADERS and CONTINUATION put together, and HPACK undone by hpack."""

from __future__ import annotations

from typing import cast

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError

from mlserve.server.port.grpc import frames
from mlserve.server.port.grpc.frames import ConnectionFault
from mlserve.server.port.grpc.patience import Patience

_USUAL_BLOCK = 2**10
"""Bytes of compressed headers above which they cost too much to come often."""
_MOST_BLOCK = 32 * 2**10
_MOST_LIST = 64 * 2**10
"""Bytes of headers, before and after their compression, above which the connection ends."""


class HeaderReader:
    """Reads the headers of one connection, one block after the other. Raises ConnectionFault."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._decoder = hpack.Decoder(max_header_list_size=_MOST_LIST)
        self._stream = 0
        self._block = b""
        self._ends = False

    @property
    def is_within(self) -> bool:
        """Whether a block has begun that has not ended: no other frame may come now."""
        return self._stream != 0

    def take(
        self, kind: int, flags: int, stream: int, payload: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bool] | None:
        """The fields, and whether they end the stream; None while some are missing."""
        if kind == frames.HEADERS:
            if self.is_within or stream % 2 == 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, f"HEADERS on stream {stream}")
            self._ends = bool(flags & frames.END_STREAM)
            self._block = _without_padding(flags, payload)
        else:
            if stream != self._stream or not stream:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            self._patience.spend()
            self._block += payload
        if len(self._block) > _MOST_BLOCK:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers have no end")
        if not flags & frames.END_HEADERS:
            self._stream = stream
            return None
        block, self._block, self._stream = self._block, b"", 0
        return self._decoded(block), self._ends

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        if len(block) > _USUAL_BLOCK:
            self._patience.spend(len(block) / _USUAL_BLOCK)
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large") from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(frames.COMPRESSION_ERROR, "the headers are damaged") from error
        return cast("list[tuple[bytes, bytes]]", fields)


def _without_padding(flags: int, payload: bytes) -> bytes:
    """The block of a HEADERS frame, without its padding and its priority (section 6.2)."""
    begin, end = 0, len(payload)
    if flags & frames.PADDED:
        begin, end = 1, end - (payload[0] if payload else 0)
    if flags & frames.HAS_PRIORITY:
        begin += 5
    if begin > end:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "HEADERS of more padding than bytes")
    return payload[begin:end]
