"""Free ports, for servers that cannot report which ones the system assigned."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

_FIRST, _END = 20_000, 32_000
"""Below what Linux gives to whoever connects, or binds port 0: with every connection that a test
opens, it could give away one of those before the server has bound it."""


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of 127.0.0.1 that are free.

    None is told twice in 12,000, and each process begins elsewhere.
    """
    return [next(_free) for _ in range(count)]


def _all_free() -> Iterator[int]:
    size = _END - _FIRST
    begin = os.getpid() * 61 % size
    while True:
        for number in range(size):
            port = _FIRST + (begin + number) % size
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            yield port


_free = _all_free()
