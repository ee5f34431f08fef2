"""When a second replica is asked: after the time that a share of answers takes."""

from __future__ import annotations

from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.options import IngressCounters


class Hedging:
    def __init__(self, quantile: float) -> None:
        self._quantile = quantile

    def patience(self, admin: Admin, counters: IngressCounters) -> float | None:
        return None
