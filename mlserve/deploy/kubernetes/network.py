"""Who reaches the pods, and how: Services, routes of the Gateway API, NetworkPolicy, monitor."""

from __future__ import annotations

from typing import Any

from mlserve.client.endpoint import Endpoint
from mlserve.deploy.kubernetes.values import Values
from mlserve.deploy.plan import DeployPlan
from mlserve.deploy.yaml_text import Noted
from mlserve.otlp import CollectorAddress

METRICS_KEY = "metrics_token"
"""The key of the Secret with the token of who scrapes the metrics."""
_SCRAPE_SECONDS = 15
_DNS = 53


def rest_service(plan: DeployPlan, values: Values) -> Any:
    """Return the Service for REST, whose connections are short or many."""
    protocol = "https" if plan.has_tls else "http"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": values.metadata(),
        "spec": {
            "type": "ClusterIP",
            "selector": values.selector,
            "ports": [
                {
                    "name": "rest",
                    "port": plan.rest_port,
                    "targetPort": "rest",
                    "appProtocol": protocol,
                }
            ],
        },
    }


def grpc_service(plan: DeployPlan, values: Values) -> Any:
    """Return the headless Service for gRPC: its name resolves to the pods themselves."""
    protocol = "https" if plan.has_tls else "kubernetes.io/h2c"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": values.metadata(values.grpc_name),
        "spec": {
            "clusterIP": Noted(
                "None",
                "A Service with an address balances connections, and a gRPC client keeps one: all "
                "its requests would go to one pod. Here the client sees every pod and balances "
                f"requests: dns:///{values.grpc_name}:{plan.grpc_port} with round_robin.",
            ),
            "selector": values.selector,
            "ports": [
                {
                    "name": "grpc",
                    "port": plan.grpc_port,
                    "targetPort": "grpc",
                    "appProtocol": protocol,
                }
            ],
        },
    }


def http_route(plan: DeployPlan, values: Values) -> Any:
    """Return the route of the Gateway API for REST."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": values.metadata(),
        "spec": {
            **_route(values),
            "rules": [
                {
                    "matches": [
                        {"path": {"type": "PathPrefix", "value": prefix}}
                        for prefix in ("/v1/models", "/v2")
                    ],
                    "timeouts": Noted(
                        {"request": "0s"},
                        "No limit of the gateway's own: the server keeps each request's deadline.",
                    ),
                    "backendRefs": [{"name": values.name, "port": plan.rest_port}],
                }
            ],
        },
    }


def grpc_route(plan: DeployPlan, values: Values) -> Any:
    """Return the route of the Gateway API for gRPC, which balances by request."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GRPCRoute",
        "metadata": values.metadata(values.grpc_name),
        "spec": {
            **_route(values),
            "rules": [{"backendRefs": [{"name": values.grpc_name, "port": plan.grpc_port}]}],
        },
    }


def _route(values: Values) -> dict[str, Any]:
    hostnames = {"hostnames": values.hostnames} if values.hostnames else {}
    return {"parentRefs": [dict(values.gateway)], **hostnames}


def network_policy(plan: DeployPlan, values: Values) -> Any:
    """Return who may connect to the pods, and to whom they connect."""
    peers: list[Any] = [{"podSelector": {}}]
    if values.allowed:
        named = {
            "key": "kubernetes.io/metadata.name",
            "operator": "In",
            "values": values.allowed,
        }
        peers.append({"namespaceSelector": {"matchExpressions": [named]}})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": values.metadata(),
        "spec": {
            "podSelector": {"matchLabels": values.selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": Noted(
                        peers,
                        "Every pod of this namespace, and the namespaces named. Probes come from "
                        "the node, which a policy does not hold.",
                    ),
                    "ports": [
                        {"protocol": "TCP", "port": plan.grpc_port},
                        {"protocol": "TCP", "port": plan.rest_port},
                    ],
                }
            ],
            "egress": _egress(plan),
        },
    }


def _egress(plan: DeployPlan) -> Noted:
    """Return whom the pods connect to: who is named by --otlp and --shadow, and who knows names."""
    asked: dict[str, int] = {}
    if plan.settings.otlp is not None:
        asked["the collector of --otlp"] = CollectorAddress.of(plan.settings.otlp).port
    if plan.settings.rollout.shadow_endpoint is not None:
        shadow = Endpoint.parse(plan.settings.rollout.shadow_endpoint)
        asked["the server of --shadow"] = shadow.port
    if not asked:
        return Noted([], "The server connects to nobody, not even to ask for names.")
    ports = [{"protocol": "TCP", "port": port} for port in dict.fromkeys(asked.values())]
    names = [{"protocol": protocol, "port": _DNS} for protocol in ("UDP", "TCP")]
    return Noted(
        [{"ports": ports}, {"ports": names}],
        f"For {' and '.join(asked)}: this port wherever it is, and who knows its name.",
    )


def disruption_budget(values: Values) -> Any:
    """Return how many pods a drain of nodes may take at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": values.metadata(),
        "spec": {
            "maxUnavailable": Noted(
                1, "Counted from above: a least number equal to the replicas would block each node."
            ),
            "unhealthyPodEvictionPolicy": Noted(
                "AlwaysAllow", "A pod that is not ready serves nobody, and must not hold a node."
            ),
            "selector": {"matchLabels": values.selector},
        },
    }


def service_monitor(plan: DeployPlan, values: Values, port: str = "rest") -> Any:
    """Return what Prometheus's operator scrapes: the port of that name of the pods' Service."""
    endpoint: dict[str, Any] = {
        "port": port,
        "path": "/metrics",
        "interval": f"{_SCRAPE_SECONDS}s",
    }
    if plan.has_token:
        endpoint["authorization"] = {
            "type": "Bearer",
            "credentials": {"name": values.secret_name, "key": METRICS_KEY},
        }
    if plan.has_tls:
        endpoint["scheme"] = "https"
        endpoint["tlsConfig"] = {
            "ca": {"secret": {"name": values.secret_name, "key": "tls_cert"}},
            "serverName": values.name,
        }
    labels = {} if values.monitor_labels is None else {"labels": values.monitor_labels}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": values.metadata(**labels),
        "spec": {
            "selector": {"matchLabels": values.selector},
            "endpoints": [endpoint],
        },
    }
