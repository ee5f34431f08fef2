"""Which requests go where, and when they are asked again: Envoy's route configuration.

A request is asked again

- after a refusal (429 and 503; RESOURCE_EXHAUSTED and UNAVAILABLE), once, however many replicas
  refuse: only the first replica that is asked can send it on by its answer (`VERDICT`). Beside one
  that is still at work, a second one that refuses is not heard;
- after a connection that could not be made, or that ended, up to `_LOST` times, so that it finds a
  living replica where two of one machine have died. A request that may have begun is asked again
  only where the model is idempotent. The number is small because a request can be what ends the
  replicas: it must not end all of them.

The replicas that were tried are passed over. All of it is inside the deadline, which is the route's
timeout: `X-Request-Timeout-Ms` arrives as Envoy's own header (`bootstrap`), gRPC's deadline by
`max_grpc_timeout`. Without one there is no timeout here: the replica has its own, and learns from
a hang-up that nobody waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlserve.wire.services import INFERENCE, MODEL, PREDICTION, method_path
from mlserve_ray.ingress.typed import Json, extension, seconds, typed

VERDICT = "x-mlserve-verdict"
"""Header of each replica's answer, which never reaches a client:
`<how many were asked>;<TIMEOUT_RETRY>;<gRPC status>;<HTTP status>`."""
ATTEMPTS = "x-envoy-attempt-count"
TIMEOUT_RETRY = "x-envoy-is-timeout-retry"
"""Header of a request that was asked again: `true` if the first replica is still at work on it."""
LOCAL = "local"
"""The cluster, in Envoy's sense, that is the front's own listener."""
_MAY_REPEAT = r"(1;.*|[0-9]+;true);"
_REFUSED = {"grpc": rf"{_MAY_REPEAT}(8|14);200", "rest": rf"{_MAY_REPEAT};(429|503)"}
_LOST = 2
_PICKS = 500
"""How often a replica is drawn until it is one that was not tried (`bootstrap.SAMPLES`)."""
_BACKOFF = {"base_interval": "0.010s", "max_interval": "0.250s"}
_LOCAL_PATHS = ("/mlserve/replicas", "/metrics", "/monitoring/prometheus/metrics")
_LOCAL_TIMEOUT = 10.0
_PREDICTIONS = ("Predict", "Classify", "Regress", "MultiInference")
_INFERENCES: dict[str, tuple[Json, ...]] = {
    "grpc": (
        *({"path": method_path(PREDICTION, name)} for name in _PREDICTIONS),
        {"path": method_path(INFERENCE, "ModelInfer")},
    ),
    "rest": ({"safe_regex": {"regex": r"/.+(:(predict|classify|regress)|/infer)"}},),
}
INFERENCE_PATHS = {
    "grpc": rf"/.+/({'|'.join(_PREDICTIONS)}|ModelInfer)",
    "rest": _INFERENCES["rest"][0]["safe_regex"]["regex"] + r"([?].*)?",
}
"""What matches the whole path of a request to the model, its query included."""
_CONTROLS: dict[str, tuple[Json, ...]] = {
    "grpc": (
        {"path": method_path(INFERENCE, "RepositoryModelLoad")},
        {"path": method_path(INFERENCE, "RepositoryModelUnload")},
        {"path": method_path(MODEL, "HandleReloadConfigRequest")},
    ),
    "rest": ({"safe_regex": {"regex": r"/v2/repository/models/.+/(load|unload)"}},),
}
_NO_CONTROL = (
    "models are not loaded or unloaded through the address of all replicas, of which only one "
    "would hear of it: use `mlserve models use`"
)
STOPPING = "the server is shutting down"
_HIDDEN = (
    VERDICT,
    ATTEMPTS,
    "x-envoy-upstream-service-time",
    "x-envoy-overloaded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-ratelimited",
)


@dataclass(frozen=True, slots=True)
class Routing:
    """How requests are routed now.

    `patience` is the seconds after which a second replica is asked, None for never. `replicas` is
    how many there are to ask.
    """

    max_request_bytes: int
    is_idempotent: bool
    replicas: int = 0
    patience: float | None = None
    is_stopping: bool = False


def route_config(protocol: str, routing: Routing) -> Json:
    """Return the routes of the port of that protocol, `grpc` or `rest`."""
    if routing.is_stopping:
        routes = [_answered({"prefix": "/"}, 503, STOPPING)]
    else:
        routes = [
            *(_local(path) for path in _LOCAL_PATHS if protocol == "rest"),
            *(_answered(match, 403, _NO_CONTROL) for match in _CONTROLS[protocol]),
            *(
                _to_replicas(protocol, match, routing, is_inference=True)
                for match in _INFERENCES[protocol]
            ),
            _to_replicas(protocol, {"prefix": "/"}, routing, is_inference=False),
        ]
    host = {
        "name": protocol,
        "domains": ["*"],
        "routes": routes,
        "include_request_attempt_count": True,
        "include_is_timeout_retry_header": True,
        "request_body_buffer_limit": routing.max_request_bytes,
    }
    return {
        "name": protocol,
        "virtual_hosts": [host],
        "response_headers_to_remove": list(_HIDDEN),
    }


def _local(path: str) -> Json:
    route = {"cluster": LOCAL, "timeout": seconds(_LOCAL_TIMEOUT)}
    return {"match": {"path": path}, "route": route}


def _answered(match: Json, status: int, text: str) -> Json:
    body = {"inline_string": text}
    return {"match": match, "direct_response": {"status": status, "body": body}}


def _to_replicas(protocol: str, match: Json, routing: Routing, *, is_inference: bool) -> Json:
    route: Json = {
        "cluster": protocol,
        "timeout": "0s",
        "retry_policy": _retries(protocol, routing, may_repeat=routing.is_idempotent),
    }
    if protocol == "grpc":
        route["max_grpc_timeout"] = "0s"
    if is_inference and routing.patience is not None and routing.is_idempotent:
        route["retry_policy"]["per_try_timeout"] = seconds(routing.patience)
        route["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    name = "inference" if is_inference else "other"
    return {"match": match, "route": route, "stat_prefix": name}


def _retries(protocol: str, routing: Routing, *, may_repeat: bool) -> Json:
    retry_on = ["connect-failure", "refused-stream", "reset-before-request"]
    if may_repeat:
        retry_on.append("reset")
    if routing.replicas > 1:
        retry_on.append("retriable-headers")
    verdict = {"name": VERDICT, "string_match": {"safe_regex": {"regex": _REFUSED[protocol]}}}
    previous = typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        "retry_on": ",".join(retry_on),
        "retriable_headers": [verdict],
        # Never more than there are others; one, though, as another may have come by then.
        "num_retries": min(_LOST, max(1, routing.replicas - 1)),
        "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", previous)],
        "host_selection_retry_max_attempts": _PICKS,
        "retry_back_off": _BACKOFF,
    }
