"""The ingress: one address in front of the replicas, which knows no Ray."""

from __future__ import annotations

from mlserve_ray.ingress.ingress import Ingress
from mlserve_ray.ingress.options import (
    Endpoint,
    EndpointState,
    IngressCounters,
    IngressOptions,
    Listen,
)

__all__ = ["Endpoint", "EndpointState", "Ingress", "IngressCounters", "IngressOptions", "Listen"]
