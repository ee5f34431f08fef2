"""How many replicas there should be: by refusals and by how long requests wait, not by CPU.

Ray Serve calls `replicas_wanted` in its controller, with what the replicas reported. It is sent
there by value, so it uses nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

REFUSED, ANSWERED, WAIT, BUSY = "refused_per_second", "answered_per_second", "wait", "busy"
"""What a replica reports: requests a second refused and answered, seconds that a request would
wait, and the share of its slots that ran something, 0 to 1."""


def wanted(refused: float, answered: float, longest_wait: float, busy: float, replicas: int) -> int:
    """Return how many replicas the load needs.

    `refused` and `answered` are requests a second of all replicas together, `busy` is the mean of
    their shares. With refusals, as many more as it takes to answer those too, and at least one.
    Without, as many as are then busy 70 % of the time; fewer only if the others then stay below
    that.
    """
    most_busy, full, long_wait = 0.7, 0.9, 0.5
    if replicas < 1:
        return 1
    if refused > 0.0:
        share = (refused + answered) / answered if answered > 0.0 else 2.0
        return max(replicas + 1, math.ceil(replicas * min(share, 4.0)))
    needed = max(1, math.ceil(replicas * busy / most_busy))
    if longest_wait > long_wait:
        return max(replicas + 1, needed)
    if needed >= replicas:
        return needed if busy > full else replicas
    return needed


def replicas_wanted(context: Any) -> tuple[int, dict[str, Any]]:
    """Return the number for Ray Serve, which bounds and delays it; the state stays empty."""
    reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
    running = set(context.running_replicas)

    def values(name: str) -> list[float]:
        return [value for replica, value in reported.get(name, {}).items() if replica in running]

    busy = values("busy")
    if not busy:
        return context.target_num_replicas, {}
    number = wanted(
        sum(values("refused_per_second")),
        sum(values("answered_per_second")),
        max(values("wait"), default=0.0),
        sum(busy) / len(busy),
        len(busy),
    )
    if context.target_num_replicas > len(busy):  # some are on their way
        number = max(number, context.target_num_replicas)
    return number, {}
