"""What a fork leaves of the client: nothing that both processes could use is used again.

A forked process has its parent's sockets and none of its threads. Writing to such a socket would
mix two conversations. The library of gRPC is worse: it shares its `epoll` set with the parent, so
that a call in the child hangs and can end the parent (grpcio 1.85.1: "Check failed:
next_worker->state == KICKED"). Its own support for forks needs a moment in which no thread is
inside the library, and `grpc.aio` always has one there; where a fork comes in the middle of calls,
the threads that it starts again in the child end about one child in fifty (SIGSEGV).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_AT_IMPORT = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
"""What grpc reads of the environment when it is imported. Its log goes to stderr, raw, a line for
each wrong header that a server sends; what a call met is in the call's error."""
_has_inherited_grpc = False


def has_inherited_grpc() -> bool:
    """Whether an ancestor of this process forked it after importing grpc."""
    return _has_inherited_grpc


@contextmanager
def without_fork_support() -> Iterator[None]:
    """For the import of grpc, which looks once at the environment: no fork handlers, no log.

    A user's own choice in the environment stands, and so does an earlier import.
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
