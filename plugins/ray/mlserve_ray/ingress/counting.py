"""The ingress's counters, from Envoy's."""

from __future__ import annotations

from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.options import IngressCounters

_PATTERN = (
    r"^ingress\..*|^vhost\.(grpc|rest)\.route\.(inference|other)\.upstream_rq_retry$"
    r"|^cluster\.(grpc|rest)\.upstream_rq_per_try_timeout$"
)


def read_counters(admin: Admin) -> IngressCounters:
    """Return what Envoy has counted since it was started. Raises Unavailable."""
    counters = admin.counters(_PATTERN)
    asked_again = _sum(counters, ".upstream_rq_retry")
    hedged = _sum(counters, ".upstream_rq_per_try_timeout")
    return IngressCounters(
        requests=counters.get("ingress.requests", 0),
        refused=counters.get("ingress.refused", 0),
        redispatched=max(0, asked_again - hedged),
        hedged=hedged,
    )


def _sum(counters: dict[str, int] | object, ending: str) -> int:
    assert isinstance(counters, dict)
    return sum(value for name, value in counters.items() if name.endswith(ending))
