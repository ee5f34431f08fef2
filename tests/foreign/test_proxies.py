"""A proxy between the client and the server: Envoy, in front of Triton and on the way to it.

`impatient` gives up after 1.5 seconds, `narrow` lets one request in at a time, `nowhere` has no
server behind it, `closed` refuses to open a tunnel. `forward` is what `http_proxy` names: it opens
tunnels to Triton's gRPC port and passes HTTP on to its REST port, whatever host is asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlserve.client import Client, Retries
from mlserve.errors import DeadlineExceeded, MlserveError, NotFound, Overloaded, Unavailable
from mlserve.testing.processes import wait_until
from tests.foreign.servers import environment
from tests.harness.ports import free_ports

pytestmark = [pytest.mark.server, pytest.mark.foreign]

PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "rest"])
_TYPES = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ONCE = Retries(max_attempts=1)


class Envoy:
    """A running Envoy; each of its listeners has a port of the system's choice."""

    def __init__(self, binary: Path, folder: Path, listeners: Any, clusters: Any) -> None:
        (folder / "envoy.json").write_text(
            json.dumps(
                {
                    "admin": {"address": _address(0)},
                    "static_resources": {"listeners": listeners, "clusters": clusters},
                }
            )
        )
        self._said, self._log = folder / "admin", folder / "log"
        argv = [binary, "--config-path", "envoy.json", "--admin-address-path", "admin"]
        argv += ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
        self._ports: dict[str, int] = wait_until(lambda: self._listening(len(listeners)))

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports[listener]}"

    def endpoint(self, listener: str, protocol: str) -> str:
        scheme = "" if protocol == "grpc" else "http://"
        return f"{scheme}{self.address(f'{listener}-{protocol}')}"

    def _listening(self, count: int) -> dict[str, int] | None:
        assert self.process.poll() is None, self._log.read_text()
        if not self._said.exists() or not (admin := self._said.read_text()):
            return None
        with urllib.request.urlopen(f"http://{admin}/listeners?format=json") as answer:
            found = json.load(answer).get("listener_statuses", [])
        ports = {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in found}
        return ports if len(ports) == count else None


def _address(port: int) -> Any:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, *routes: Any, **more: Any) -> Any:
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    http = {
        "@type": _HTTP,
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": "*", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": router}],
        **more,
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]
    return {"name": name, "address": _address(0), "filter_chains": [{"filters": filters}]}


def _route(cluster: str, **more: Any) -> Any:
    return {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "40s", **more}}


def _cluster(name: str, port: int, *, is_http2: bool, **more: Any) -> Any:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    speaks: Any = {"http2_protocol_options": {}} if is_http2 else {"http_protocol_options": {}}
    options = {"@type": f"type.googleapis.com/{_OPTIONS}", "explicit_http_config": speaks}
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": {_OPTIONS: options},
        **more,
    }


@pytest.fixture(scope="module")
def envoy(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    (binary,) = environment("envoy").glob("lib/python*/site-packages/envoy/_bin/envoy")
    triton = servers("triton")
    listeners, clusters = [], []
    one = {"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}]}
    for protocol, port in (("grpc", triton.grpc_port), ("rest", triton.rest_port)):
        listeners += [
            _listener(f"impatient-{protocol}", _route(protocol, timeout="1.5s")),
            _listener(f"narrow-{protocol}", _route(f"narrow-{protocol}")),
            _listener(f"nowhere-{protocol}", _route("nowhere")),
        ]
        is_http2 = protocol == "grpc"
        clusters += [
            _cluster(protocol, port, is_http2=is_http2),
            _cluster(f"narrow-{protocol}", port, is_http2=is_http2, circuit_breakers=one),
        ]
    connect = {"upgrade_type": "CONNECT"}
    tunnel = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "grpc", "upgrade_configs": [{**connect, "connect_config": {}}]},
    }
    refuse = {"match": {"prefix": "/"}, "direct_response": {"status": 503}}
    shut = {"match": {"connect_matcher": {}}, "direct_response": {"status": 403}}
    listeners += [
        _listener("forward", tunnel, _route("rest"), upgrade_configs=[connect]),
        _listener("closed", shut, refuse, upgrade_configs=[connect]),
    ]
    clusters.append(_cluster("nowhere", *free_ports(1), is_http2=False))
    found = Envoy(binary, tmp_path_factory.mktemp("envoy"), listeners, clusters)
    yield found
    found.process.kill()
    found.process.wait()


@PROTOCOLS
def test_a_proxy_that_gives_up_is_named_and_the_work_is_done_once(
    envoy: Envoy, triton: Any, protocol: str, green: bytes
) -> None:
    """Envoy's 504, which over gRPC is UNAVAILABLE, is a deadline: nobody asks again after it."""
    triton.close_gate("slow")
    before = triton.entered("slow")
    with (
        Client(envoy.endpoint("impatient", protocol), model="slow") as client,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        client.predict(green, timeout=30)

    assert caught.value.exit_code == 124
    assert "a proxy in front of" in caught.value.message
    assert "(envoy) gave up" in caught.value.message
    assert "not timeout" in str(caught.value.hint)
    assert triton.entered("slow") - before == 1


@PROTOCOLS
def test_a_proxy_without_a_server_behind_it_is_not_a_server_that_is_not_ready(
    envoy: Envoy, protocol: str, green: bytes
) -> None:
    with (
        Client(envoy.endpoint("nowhere", protocol), model="label", retries=ONCE) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.predict(green, timeout=30)

    assert "(envoy) gets no answer from the server behind it: " in caught.value.message
    assert "not ready" not in caught.value.message


@PROTOCOLS
def test_a_proxy_that_is_full_is_an_overload(
    envoy: Envoy, triton: Any, protocol: str, green: bytes
) -> None:
    triton.close_gate("slow")
    endpoint = envoy.endpoint("narrow", protocol)
    with Client(endpoint, model="slow", api="oip", retries=ONCE) as client:
        client.metadata(timeout=20)
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.predict, green, timeout=40) for _ in range(6)]
            wait_until(lambda: sum(one.done() for one in asked) >= 3)
            triton.open_gates()
            errors = [error for one in asked if (error := one.exception(40))]

    assert {type(error) for error in errors} == {Overloaded}
    assert "has no room for the request" in str(errors[0])


@pytest.fixture
def through(envoy: Envoy, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`through(listener, no_proxy)` makes a listener the proxy of the environment."""

    def choose(address: str, no_proxy: str = "") -> None:
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("http_proxy", f"http://{address}")
        monkeypatch.setenv("no_proxy", no_proxy)

    return choose


def _behind(protocol: str) -> str:
    """A host that only the proxy knows."""
    return "model.invalid:8500" if protocol == "grpc" else "http://model.invalid:8501"


@PROTOCOLS
def test_the_proxy_of_the_environment_leads_to_the_server(
    envoy: Envoy, through: Any, protocol: str, green: bytes
) -> None:
    through(envoy.address("forward"))
    with Client(_behind(protocol), model="label") as client:
        assert client.predict(green, timeout=20).label == "green"


def _refused(protocol: str, image: bytes) -> MlserveError:
    with (
        Client(_behind(protocol), model="label", retries=ONCE) as client,
        pytest.raises((Unavailable, NotFound)) as caught,
    ):
        client.predict(image, timeout=20)
    return caught.value


@PROTOCOLS
def test_a_proxy_that_does_not_answer_is_named(through: Any, protocol: str, green: bytes) -> None:
    address = "127.0.0.1:{}".format(*free_ports(1))
    through(address)
    error = _refused(protocol, green)

    named = f"the proxy at {address} (http_proxy), on the way to {_behind(protocol)}, does not"
    assert error.message.startswith(named)
    assert "no_proxy" in str(error.hint)


@PROTOCOLS
def test_a_proxy_that_lets_nobody_through_is_named(
    envoy: Envoy, through: Any, protocol: str, green: bytes
) -> None:
    through(envoy.address("closed"))
    error = _refused(protocol, green)

    named = f"the proxy at {envoy.address('closed')} (http_proxy) cannot connect to "
    assert error.message.startswith(named + _behind(protocol))
    assert ("403" if protocol == "grpc" else "503") in error.message
    assert "not ready" not in error.message


@PROTOCOLS
@pytest.mark.parametrize("no_proxy", ["*", "model.invalid", ".invalid", "*.invalid", "x, invalid"])
def test_no_proxy_reads_alike_for_both_transports(
    envoy: Envoy, through: Any, protocol: str, no_proxy: str, green: bytes
) -> None:
    """The host is asked directly, where nobody knows it."""
    through(envoy.address("forward"), no_proxy)
    assert _refused(protocol, green).message.startswith("the host model.invalid cannot be found")


@PROTOCOLS
def test_no_proxy_for_another_host_changes_nothing(
    envoy: Envoy, through: Any, protocol: str, green: bytes
) -> None:
    """gRPC's own reading takes `del.invalid` for the end of this name."""
    through(envoy.address("forward"), "del.invalid, model.invalid:1, 10.0.0.0/8")
    with Client(_behind(protocol), model="label") as client:
        assert client.predict(green, timeout=20).label == "green"
