"""The configuration that Envoy starts with: its two ports, and where it reads the rest from.

Endpoints and routes are files that Envoy watches (`files`), so that they change without a restart.
"""

from __future__ import annotations

from mlserve.settings import ServerSettings
from mlserve.wire.headers import ENVOY_TIMEOUT_MS, REQUEST_TIMEOUT_MS
from mlserve_ray.ingress.answers import local_replies
from mlserve_ray.ingress.options import IngressOptions, Listen
from mlserve_ray.ingress.routes import INFERENCE_PATHS, LOCAL, TIMEOUT_RETRY, VERDICT
from mlserve_ray.ingress.typed import Json, extension, pipe, put, seconds, socket, typed

PROTOCOLS = ("grpc", "rest")
SAMPLES = 5
"""Replicas that are drawn for a request, of which the one with the fewest requests gets it.

They are drawn with repetition, so that a retry, which passes over the replicas that were tried,
finds another one by drawing again. A scan of all replicas would find the one that refuses, which
has the fewest requests, again and again.
"""
HEALTH_INTERVAL = 0.2
HEALTH_TIMEOUT = 1.0
_CONNECT_TIMEOUT = 0.5
_LONGEST_MS = 120_000
_KEPT_STATS = (
    {"prefix": "ingress."},
    {"suffix": ".downstream_rq_active"},
    {"suffix": ".inference.upstream_rq_time"},
    {"suffix": ".update_rejected"},
)
"""Envoy's figures that somebody reads: it has some thousand others, which cost time."""
_CONNECTIONS = 8
"""How many times the connections of one server each Envoy takes: there are several behind it."""
_NO_LIMIT = 2**32 - 1
_TIMEOUT = "x-mlserve-timeout"
_TCP, _USER_TIMEOUT = 6, 18
_SILENT_MS = 3000
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"


def bootstrap(listen: Listen, options: IngressOptions, admin: str) -> Json:
    """Return the configuration of an Envoy with that admin socket; paths are in its folder."""
    ports = {"grpc": listen.grpc_port, "rest": listen.rest_port}
    listeners = [_listener(name, listen.host, ports[name], options) for name in PROTOCOLS]
    clusters = [*map(_replicas, PROTOCOLS), _local()]
    return {
        "node": {"id": "ingress", "cluster": "mlserve"},
        "admin": {"address": pipe(admin, 0o600)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_flush_interval": "1s",
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [dict(one) for one in _KEPT_STATS]}},
            "histogram_bucket_settings": [
                {"match": {"suffix": ".upstream_rq_time"}, "buckets": _buckets()}
            ],
        },
        "overload_manager": {"resource_monitors": [_most_connections(options.settings)]},
    }


def _buckets() -> list[float]:
    """Return the milliseconds that separate fast answers from slow ones, a tenth apart."""
    bounds, bound = [], 1.0
    while bound < _LONGEST_MS:
        bounds.append(round(bound, 1))
        bound = max(bound + 1, bound * 1.1)
    return bounds


def _most_connections(settings: ServerSettings) -> Json:
    """Return the limit on connections of clients, to both ports together."""
    monitor = typed(
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=_CONNECTIONS * settings.max_connections,
    )
    return extension("envoy.resource_monitors.global_downstream_max_connections", monitor)


def watched(name: str) -> Json:
    """Return the source of what is in that file, and follows it."""
    return {"path_config_source": {"path": f"./{name}"}, "resource_api_version": "V3"}


def _listener(protocol: str, host: str, port: int, options: IngressOptions) -> Json:
    settings = options.settings
    chain: Json = {"filters": [extension(_CONNECTION_MANAGER, _http(protocol, settings))]}
    if settings.speaks_tls:
        chain["transport_socket"] = _tls(protocol, settings)
    return {
        "name": protocol,
        "address": socket(host, port),
        "filter_chains": [chain],
        "enable_reuse_port": True,  # by several Envoys; `held_ports` keeps others away
        "connection_balance_config": {"exact_balance": {}},
        "per_connection_buffer_limit_bytes": 2**20,
        "tcp_backlog_size": 2048,
    }


def _http(protocol: str, settings: ServerSettings) -> Json:
    """Return how a port speaks HTTP: as it comes, with no header of Envoy's own."""
    router = typed("extensions.filters.http.router.v3.Router")
    clean = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": _request_mutations(protocol)},
    )
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=protocol,
        codec_type="HTTP2" if protocol == "grpc" else "HTTP1",
        rds={"route_config_name": protocol, "config_source": watched(f"routes-{protocol}.json")},
        early_header_mutation_extensions=[_note_deadline()] if protocol == "rest" else [],
        http_filters=[
            extension("envoy.filters.http.header_mutation", clean),
            extension("envoy.filters.http.router", router),
        ],
        local_reply_config=local_replies(protocol),
        access_log=_counting(protocol),
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        preserve_external_request_id=True,
        skip_xff_append=True,
        proxy_100_continue=True,
        http_protocol_options={"accept_http_10": True},
        stream_idle_timeout="0s",  # an answer may take as long as the caller's deadline allows
        stream_flush_timeout="60s",  # but its reader may not
        request_headers_timeout=seconds(settings.header_timeout),
        common_http_protocol_options={"idle_timeout": "3600s"},
        delayed_close_timeout="2s",
        drain_timeout="1s",
    )


def _note_deadline() -> Json:
    """Keep the milliseconds that the caller gives, or an Envoy in front: it is looked at first."""
    note = typed(
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[put(_TIMEOUT, f"%REQ({ENVOY_TIMEOUT_MS}?{REQUEST_TIMEOUT_MS})%")],
    )
    return extension("envoy.http.early_header_mutation.header_mutation", note)


def _request_mutations(protocol: str) -> list[Json]:
    """Let no caller give orders to Envoy, and make the deadline its timeout."""
    clean: Json = {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}
    if protocol == "grpc":
        return [clean]
    return [
        clean,
        put("x-envoy-upstream-rq-timeout-ms", f"%REQ({_TIMEOUT})%"),
        {"remove": _TIMEOUT},
    ]


def _tls(protocol: str, settings: ServerSettings) -> Json:
    certificate = {
        "certificate_chain": {"filename": str(settings.tls_cert)},
        "private_key": {"filename": str(settings.tls_key)},
    }
    common: Json = {
        "tls_certificates": [certificate],
        "alpn_protocols": ["h2" if protocol == "grpc" else "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
    }
    if settings.tls_client_ca is not None:
        common["validation_context"] = {"trusted_ca": {"filename": str(settings.tls_client_ca)}}
    context = typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=settings.tls_client_ca is not None,
    )
    return extension("envoy.transport_sockets.tls", context)


def _replicas(protocol: str) -> Json:
    """Return the set of replicas, as they are asked over one of the protocols."""
    least = typed(
        "extensions.load_balancing_policies.least_request.v3.LeastRequest", choice_count=SAMPLES
    )
    policy = extension("envoy.load_balancing_policies.least_request", least)
    return {
        "name": protocol,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": protocol,
            "eds_config": watched(f"endpoints-{protocol}.json"),
        },
        "connect_timeout": seconds(_CONNECT_TIMEOUT),
        "load_balancing_policy": {"policies": [{"typed_extension_config": policy}]},
        # Unless it is told not to, Envoy gathers changes of health for a second before it acts.
        "common_lb_config": {
            # Where none answers its health checks, all are asked: a starved one may be in time.
            "healthy_panic_threshold": {"value": 1},
            "update_merge_window": "0s",
        },
        "ignore_health_on_host_removal": True,
        "health_checks": [_health_check()],
        "circuit_breakers": {"thresholds": [_no_limits()]},
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 2, "keepalive_time": 1, "keepalive_interval": 1}
        },
        "upstream_bind_config": {
            "socket_options": [
                {
                    "level": _TCP,
                    "name": _USER_TIMEOUT,
                    "int_value": _SILENT_MS,
                    "state": "STATE_PREBIND",
                }
            ]
        },
        "per_connection_buffer_limit_bytes": 2**20,
        "typed_extension_protocol_options": {_OPTIONS: _upstream(protocol)},
    }


def _upstream(protocol: str) -> Json:
    """Return how replicas are spoken to; each answer is judged as it arrives (`VERDICT`)."""
    asked = f"%UPSTREAM_REQUEST_ATTEMPT_COUNT%;%REQ({TIMEOUT_RETRY})%"
    verdict = put(VERDICT, f"{asked};%RESP(GRPC-STATUS)%;%RESP(:STATUS)%")
    judge = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"response_mutations": [verdict]},
    )
    codec = typed("extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    keepalive = {"interval": "1s", "timeout": "2s"}
    speaks: Json = (
        {"http2_protocol_options": {"connection_keepalive": keepalive}}
        if protocol == "grpc"
        else {"http_protocol_options": {}}
    )
    return typed(
        _OPTIONS.removeprefix("envoy."),
        explicit_http_config=speaks,
        common_http_protocol_options={"idle_timeout": "60s"},
        http_filters=[
            extension("envoy.filters.http.header_mutation", judge),
            extension("envoy.filters.http.upstream_codec", codec),
        ],
    )


def _health_check() -> Json:
    interval = seconds(HEALTH_INTERVAL)
    return {
        "timeout": seconds(HEALTH_TIMEOUT),
        "interval": interval,
        "unhealthy_interval": interval,
        "unhealthy_edge_interval": interval,
        "healthy_edge_interval": interval,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/v2/health/ready", "host": "mlserve"},
    }


def _no_limits() -> Json:
    """Return limits that do not bind: replicas know best what they have room for."""
    names = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return dict.fromkeys(names, _NO_LIMIT)


def _local() -> Json:
    return {
        "name": LOCAL,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": LOCAL,
            "eds_config": watched("endpoints-local.json"),
        },
        "connect_timeout": seconds(_CONNECT_TIMEOUT),
    }


def _counting(protocol: str) -> list[Json]:
    """Return what counts requests as they end: Envoy counts answers of replicas by itself.

    Only those to the model count: `mlserve up` alone asks some hundred times whether it is ready.
    """
    path = {"safe_regex": {"regex": INFERENCE_PATHS[protocol]}}
    to_model = {"header_filter": {"header": {"name": ":path", "string_match": path}}}
    refused = {
        "or_filter": {
            "filters": [
                {"status_code_filter": {"comparison": {"op": "EQ", "value": _status(429)}}},
                {"status_code_filter": {"comparison": {"op": "EQ", "value": _status(503)}}},
                {"grpc_status_filter": {"statuses": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]}},
            ]
        }
    }
    again = f"%REQ({TIMEOUT_RETRY})%"
    return [
        {"filter": to_model, **_counter("requests", again=again)},
        {"filter": {"and_filter": {"filters": [to_model, refused]}}, **_counter("refused")},
    ]


def _counter(name: str, **tags: str) -> Json:
    values = [{"name": tag, "value_format": value} for tag, value in tags.items()]
    counter = {"stat": {"name": name, "tags": values}, "value_fixed": 1}
    config = typed(
        "extensions.access_loggers.stats.v3.Config", stat_prefix="ingress", counters=[counter]
    )
    return extension("envoy.access_loggers.stats", config)


def _status(code: int) -> Json:
    return {"default_value": code, "runtime_key": "mlserve.none"}
