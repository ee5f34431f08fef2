"""What the tests of the ingress share: an ingress, its replicas, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from mlserve_ray.ingress import Endpoint, Ingress, IngressOptions, Listen
from mlserve_ray.ingress.admin import Admin
from mlserve_ray.ingress.ingress import ENVOYS

from mlserve.testing.processes import wait_until
from mlserve.wire.services import PREDICTION, method_path
from tests.harness.replica import Does, Replica
from tests.harness.server import EchoServer, EchoServers

PREDICT = "/v1/models/m:predict"


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request over either protocol: its name in gRPC, its text and headers."""

    code: str
    text: str
    headers: dict[str, str]


class Front:
    """An ingress, and clients of it that add nothing of their own."""

    def __init__(self, ingress: Ingress, folder: Path, stack: ExitStack) -> None:
        self.ingress = ingress
        self.admins = [Admin(folder, f"admin-{number + 1}.sock") for number in range(ENVOYS)]
        self._http = stack.enter_context(httpx.Client(timeout=30))
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self.channel = stack.enter_context(grpc.insecure_channel(self.grpc, options=options))

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ingress.listen.grpc_port}"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.ingress.listen.rest_port}"

    def endpoint(self, protocol: str) -> str:
        return self.grpc if protocol == "grpc" else self.rest

    def use(self, *replicas: Replica | EchoServer) -> None:
        """Name the replicas, and wait until Envoy has found each of them ready, or not."""
        self.ingress.set_endpoints([endpoint_of(one) for one in replicas])
        ports = {endpoint_of(one).rest_port for one in replicas}
        wait_until(lambda: all(self._known(admin) == ports for admin in self.admins))
        wait_until(lambda: self.is_ready(*(one for one in replicas)))

    def is_ready(self, *replicas: Replica | EchoServer) -> bool:
        """Return whether exactly these replicas get requests, over both protocols."""
        for protocol in ("grpc", "rest"):
            ports = {getattr(endpoint_of(one), f"{protocol}_port") for one in replicas}
            for admin in self.admins:
                found = admin.replicas(protocol)
                if {one.port for one in found if one.is_ready} != ports:
                    return False
        return True

    def active(self, protocol: str) -> int:
        """Return the requests that the replicas have, by what both Envoys say."""
        return sum(one.active for admin in self.admins for one in admin.replicas(protocol))

    def ask(self, protocol: str, *, timeout: float | None = None, body: Any = b"{}") -> Answer:
        """Ask for a prediction; the ingress is told the timeout, and the client has none."""
        if protocol == "rest":
            headers = {} if timeout is None else {"X-Request-Timeout-Ms": f"{timeout * 1000:.0f}"}
            got = self._http.post(f"{self.rest}{PREDICT}", content=body, headers=headers)
            return Answer(_CODES.get(got.status_code, str(got.status_code)), got.text, got.headers)
        predict = self.channel.unary_unary(method_path(PREDICTION, "Predict"))
        try:
            _, call = predict.with_call(body, timeout=timeout)
        except grpc.RpcError as error:
            metadata = (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ()))
            return Answer(error.code().name, error.details(), dict(metadata))
        return Answer("OK", "", dict((*call.initial_metadata(), *call.trailing_metadata())))

    def get(self, path: str) -> httpx.Response:
        return self._http.get(f"{self.rest}{path}")

    def _known(self, admin: Admin) -> set[int]:
        return {one.port for one in admin.replicas("rest")}


_CODES = {200: "OK", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


def endpoint_of(replica: Replica | EchoServer) -> Endpoint:
    if isinstance(replica, Replica):
        ports = replica.grpc_port, replica.rest_port
    else:
        ports = (int(replica.grpc.rpartition(":")[2]), int(replica.rest.rpartition(":")[2]))
    return Endpoint(f"replica-{ports[1]}", "127.0.0.1", *ports)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack) -> Callable[..., Front]:
    """Starts an ingress with the given options."""

    def start(**options: Any) -> Front:
        folder = tmp_path / f"ingress-{len(list(tmp_path.iterdir()))}"
        ingress = Ingress(folder, Listen(), IngressOptions(**options))
        ingress.start()
        stack.callback(ingress.stop)
        return Front(ingress, folder, stack)

    return start


@pytest.fixture
def front(start: Callable[..., Front]) -> Front:
    return start()


@pytest.fixture
def replicas(stack: ExitStack) -> Callable[..., Sequence[Replica]]:
    """Starts replicas that do these things."""

    def start(*does: Does) -> Sequence[Replica]:
        return [stack.enter_context(Replica(one)) for one in does]

    return start


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServers]:
    with ExitStack() as stack:
        yield EchoServers(tmp_path_factory.mktemp("servers"), stack)


@pytest.fixture(scope="module")
def pair(servers: EchoServers) -> tuple[EchoServer, EchoServer]:
    """Two real servers of one model."""
    return servers(), servers()
