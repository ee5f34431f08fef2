"""The files that Envoy follows: the replicas, the routes, and where the front's own pages are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from mlserve_ray.ingress.bootstrap import PROTOCOLS
from mlserve_ray.ingress.options import Endpoint
from mlserve_ray.ingress.routes import LOCAL, Routing, route_config
from mlserve_ray.ingress.typed import Json, pipe, socket, typed


class ConfigFiles:
    """Write what Envoy follows, each file whole and by a rename."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = count(1)
        self._written: dict[str, list[Json]] = {}

    def write(self, name: str, content: Json) -> None:
        """Write a file of that folder."""
        path = self._folder / name
        incoming = path.with_name(f".{name}")
        incoming.write_text(json.dumps(content, indent=1))
        incoming.rename(path)

    def set_replicas(self, endpoints: Sequence[Endpoint]) -> None:
        """Name the replicas."""
        for protocol in PROTOCOLS:
            ends = [_endpoint(protocol, one) for one in endpoints]
            self._publish(f"endpoints-{protocol}.json", _assignment(protocol, ends))

    def set_local(self, address: int | str) -> None:
        """Name the port of 127.0.0.1, or the UNIX socket, of the front's own pages."""
        where = pipe(address) if isinstance(address, str) else socket("127.0.0.1", address)
        ends = [{"endpoint": {"address": where}}] if address else []
        self._publish("endpoints-local.json", _assignment(LOCAL, ends))

    def set_routing(self, routing: Routing) -> None:
        """Say how requests are routed."""
        for protocol in PROTOCOLS:
            config = typed("config.route.v3.RouteConfiguration", **route_config(protocol, routing))
            self._publish(f"routes-{protocol}.json", config)

    def _publish(self, name: str, resource: Json) -> None:
        """Write a file if it has changed: Envoy would read it for nothing."""
        if self._written.get(name) != [resource]:
            self._written[name] = [resource]
            version = str(next(self._versions))
            self.write(name, {"version_info": version, "resources": [resource]})


def _assignment(cluster: str, ends: Sequence[Json]) -> Json:
    endpoints = [{"lb_endpoints": ends}] if ends else []
    return typed(
        "config.endpoint.v3.ClusterLoadAssignment", cluster_name=cluster, endpoints=endpoints
    )


def _endpoint(protocol: str, one: Endpoint) -> Json:
    port = one.grpc_port if protocol == "grpc" else one.rest_port
    return {
        "endpoint": {
            "address": socket(one.host, port),
            "hostname": one.id,
            "health_check_config": {"port_value": one.rest_port},
        },
        "health_status": "DRAINING" if one.state == "draining" else "UNKNOWN",
    }
