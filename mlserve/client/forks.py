"""Support for `fork`: the child never uses a connection of its parent.

A forked process has its parent's sockets and none of its threads. Writing to such a socket would
mix two conversations. The gRPC library is worse: it shares its `epoll` set with the parent, so that
a call in the child hangs and can crash the parent (grpcio 1.85.1: "Check failed: next_worker->state
== KICKED"). Its own fork support needs a moment in which no thread is inside the library, and
`grpc.aio` always has one there; if a fork comes in the middle of calls, the threads that it
restarts crash about one child in fifty (SIGSEGV).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_AT_IMPORT = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
"""Environment variables that grpc reads at import.

Its log would go to stderr, unformatted, one line for each malformed header; the error of a call
reports what matters.
"""
_has_inherited_grpc = False


def has_inherited_grpc() -> bool:
    """Return whether an ancestor of this process forked it after importing grpc."""
    return _has_inherited_grpc


@contextmanager
def without_fork_support() -> Iterator[None]:
    """Import grpc in this block, without its fork handlers and its log.

    grpc reads the environment only once. A user's own settings there are kept.
    """
    ours = {name: value for name, value in _AT_IMPORT.items() if name not in os.environ}
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _after_fork() -> None:
    global _has_inherited_grpc  # noqa: PLW0603  it is a fact about the process
    _has_inherited_grpc = _has_inherited_grpc or "grpc" in sys.modules


os.register_at_fork(after_in_child=_after_fork)
