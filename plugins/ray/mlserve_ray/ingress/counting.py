"""The ingress's counters, from Envoy's."""

from __future__ import annotations

import time
from collections.abc import Iterable

from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.hedging import Look, together
from mlserve_ray.ingress.options import IngressCounters

_PATTERN = r"^ingress\."
_REQUESTS = "ingress.requests.again."
"""And how a request was asked again: see `routes.TIMEOUT_RETRY`."""
_TIMES = r"^vhost\.(grpc|rest)\.route\.inference\.upstream_rq_time$"


def read_counters(admin: Admin) -> IngressCounters:
    """Return what Envoy has counted since it was started. Raises Unavailable."""
    counters = admin.counters(_PATTERN)
    hedged, redispatched = (counters.get(_REQUESTS + again, 0) for again in ("true", "false"))
    return IngressCounters(
        requests=sum(count for name, count in counters.items() if name.startswith(_REQUESTS)),
        refused=counters.get("ingress.refused", 0),
        redispatched=redispatched,
        hedged=hedged,
    )


def read_look(admins: Iterable[Admin], counters: IngressCounters) -> Look:
    """Return what hedging goes by. Raises Unavailable."""
    answers = together(one for admin in admins for one in admin.buckets(_TIMES).values())
    return Look(time.monotonic(), answers, max(answers.values(), default=0), counters.hedged)
