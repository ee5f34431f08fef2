"""Compute when a refused client should come back: the seconds of `Retry-After`.

| refused because | seconds |
|---|---|
| the queue is full | `until_a_slot_is_free` |
| the answer would come too late | `until_in_time` |
| there are too many connections, or nothing is measured yet | `UNKNOWN` |
| there is no memory for the body | `body_memory.RETRY_SECONDS` (a lower layer) |

They leave the server with the error (`Overloaded.retry_after`): over HTTP as `Retry-After`, rounded
up to whole seconds, and `Retry-After-Ms` (`wire.status`), over gRPC as the pushback
(`listen.grpc.service`).
"""

from __future__ import annotations

UNKNOWN = 1.0
"""Seconds to wait without an estimate."""
_SHORTEST = 0.001


def until_a_slot_is_free(demand: float | None, running: int) -> float:
    """Return the seconds until the next of the running calls ends.

    `demand` is what that call still needs of the server, in seconds (`estimates`); None as long as
    nothing has been measured. `running` is how many share the server.
    """
    return UNKNOWN if demand is None else max(demand * running, _SHORTEST)


def until_in_time(overrun: float) -> float:
    """Return the seconds after which the same call would be in time, if no other comes.

    `overrun` is by how many seconds it, or a call that it delays, would be late now.
    """
    return max(overrun, _SHORTEST)
