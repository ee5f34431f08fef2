"""How many replicas there should be: by refusals and by how long requests wait, not by CPU.

Ray Serve calls `replicas_wanted` in its controller, with what the replicas reported. It is sent
there by value, so it uses nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

REFUSED, ANSWERED, WAIT, BUSY = "refused_per_second", "answered_per_second", "wait", "busy"
"""What a replica reports: requests a second refused and answered, seconds that a request would
wait, and the share of its slots that ran something, 0 to 1."""

_Reported = Mapping[str, Mapping[Any, float]]
"""By the name of a metric, what each replica reported."""


def wanted(refused: float, answered: float, longest_wait: float, busy: float, replicas: int) -> int:
    """Return how many replicas the load needs.

    `refused` and `answered` are requests a second of all replicas together, `busy` is the mean of
    their shares. As many as would be busy 70 % of the time if they answered what is refused, too,
    and at most four times as many as there are. At least one more while requests are refused or
    wait long. Fewer only if the others then stay below the 70 %.
    """
    most_busy, full, long_wait, most_times = 0.7, 0.9, 0.5, 4.0
    if replicas < 1:
        return 1
    load = (refused + answered) / answered if answered > 0.0 else 1.0
    needed = max(1, math.ceil(replicas * min(busy * load / most_busy, most_times)))
    if refused > 0.0 or longest_wait > long_wait:
        return max(replicas + 1, needed)
    if needed >= replicas:
        return needed if busy > full else replicas
    return needed


def replicas_wanted(context: Any) -> tuple[int, dict[str, Any]]:
    """Return the number for Ray Serve, which bounds and delays it; the state stays empty.

    What the replicas reported last counts, and the mean of the last seconds: a sudden load gets at
    once all the replicas that it needs, and a short lull ends none.
    """
    means: _Reported = context.aggregated_metrics or {}
    series: Mapping[str, Mapping[Any, Sequence[Any]]] = context.raw_metrics or {}
    latest: _Reported = {
        name: {replica: values[-1].value for replica, values in of_replicas.items() if values}
        for name, of_replicas in series.items()
    }
    replicas = [each for each in context.running_replicas if each in means.get(BUSY, {})]
    if not replicas:
        return context.target_num_replicas, {}
    number = max(_wanted_by(means, replicas), _wanted_by(latest, replicas))
    if context.target_num_replicas > len(replicas):  # some are on their way
        number = max(number, context.target_num_replicas)
    return number, {}


def _wanted_by(reported: _Reported, replicas: Sequence[Any]) -> int:
    def values(name: str) -> list[float]:
        of_replicas = reported.get(name, {})
        return [of_replicas.get(each, 0.0) for each in replicas]

    refused, answered, busy = (sum(values(name)) for name in (REFUSED, ANSWERED, BUSY))
    return wanted(refused, answered, max(values(WAIT)), busy / len(replicas), len(replicas))
