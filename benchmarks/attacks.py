"""What callers who mean harm cost a server: its peak memory, and how long a health check waits.

Each attack of `attacks_rest`, `attacks_grpc` and `attacks_images` comes from a process of its own,
while another asks both ports for their health. Two threads, default limits; the images go to ONNX
Runtime, the others to the echo backend (`tests/echo`). A target is missed where the memory is more
than twice the bound that the attack is up against, or health has waited for more than 100 ms. To
be run on a machine with nothing else to do; `nothing` tells how quiet it is.

    python benchmarks/attacks.py [NAME ...] [--list] [--verbose]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import attacks_grpc
import attacks_images
import attacks_rest
import grpc
from grpc_health.v1 import health_pb2
from served_model import BACKEND, MODEL, exported

from mlserve.artifact import Artifact
from mlserve.settings import DEFAULT_SETTINGS
from mlserve.testing.processes import ServerProcess, launched
from mlserve.testing.questions import predict_method, request_of

MOST_WAIT = 0.1
"""The target for a health check, in seconds."""
_ECHO_MODEL = "m"
_TIMEOUT = 60.0
_HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Attack:
    """Attacks the addresses of both ports; `bound` is the memory bound it tests, in bytes."""

    send: Callable[[str, str], object]
    bound: int
    is_of_images: bool = False


@dataclass(frozen=True)
class Outcome:
    """The cost of an attack: peak memory in bytes, and the longest health checks in seconds."""

    name: str
    peak: int
    bound: int
    over_rest: float
    over_grpc: float
    told: str

    @property
    def is_met(self) -> bool:
        """Return whether the targets were met."""
        return self.peak <= 2 * self.bound and max(self.over_rest, self.over_grpc) <= MOST_WAIT

    def __str__(self) -> str:
        return (
            f"{self.peak / 2**20:.0f} MB; health waits {self.over_rest * 1000:.0f} ms on REST, "
            f"{self.over_grpc * 1000:.0f} ms on gRPC"
        )


def _send_image(name: str, _rest: str, over_grpc: str) -> None:
    """Send the image four times at once."""
    image = attacks_images.ATTACKS[name]()
    with grpc.insecure_channel(over_grpc) as channel, ThreadPoolExecutor(4) as threads:
        predict = predict_method(channel)

        def ask(_: int) -> str:
            try:
                return predict(request_of(MODEL, image), timeout=_TIMEOUT).model_spec.name
            except grpc.RpcError as error:
                return f"{error.code().name}: {str(error.details())[:100]}"

        for told in threads.map(ask, range(4)):
            print(told, end="; ", flush=True)


def _all() -> Iterator[tuple[str, Attack]]:
    bodies, image = DEFAULT_SETTINGS.body_memory, DEFAULT_SETTINGS.max_decode_bytes
    yield "nothing", Attack(lambda _rest, _grpc: time.sleep(5), bodies)
    for name, rest in attacks_rest.ATTACKS.items():
        yield f"REST: {name}", Attack(partial(_only_rest, rest), bodies)
    for name, over_grpc in attacks_grpc.ATTACKS.items():
        yield f"gRPC: {name}", Attack(partial(_only_grpc, over_grpc), bodies)
    for name in attacks_images.ATTACKS:
        yield f"image: {name}", Attack(partial(_send_image, name), image, is_of_images=True)


def _only_rest(send: Callable[[str], object], rest: str, _grpc: str) -> None:
    send(rest)


def _only_grpc(send: Callable[[str], object], _rest: str, over_grpc: str) -> None:
    send(over_grpc)


ATTACKS = dict(_all())


def outcomes(names: Sequence[str] = tuple(ATTACKS)) -> Iterator[Outcome]:
    """Run each of these attacks against a freshly started server."""
    with tempfile.TemporaryDirectory(prefix="mlserve-attacks-") as folder:
        images: Artifact | None = None
        for name in names:
            attack = ATTACKS[name]
            if attack.is_of_images:
                images = images or exported(folder)
            with _served(images if attack.is_of_images else None) as server:
                yield _outcome(server, name)


@contextmanager
def _served(model: Artifact | None) -> Iterator[ServerProcess]:
    """Serve that model, or the echo backend's if it is None."""
    with tempfile.TemporaryDirectory(prefix="mlserve-attacks-") as folder:
        if model is None:
            version = Path(folder) / _ECHO_MODEL / "1"
            version.mkdir(parents=True)
            (version / "echo.json").write_text("{}")
            model, backend = Artifact.open(version.parent, _ECHO_MODEL, 1), "echo"
        else:
            backend = BACKEND
        with launched(backend, model, "--threads", "2") as server:
            server.wait_ready(model.version)
            yield server


def _outcome(server: ServerProcess, name: str) -> Outcome:
    pid, addresses = server.process.pid, f"{server.rest},{server.grpc}"
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # reset the peak (Linux)
    watch = subprocess.Popen(
        [sys.executable, __file__, "--watch", addresses],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    argv = [sys.executable, __file__, "--send", addresses, name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    waits, _ = watch.communicate("")
    assert server.process.poll() is None, server.log()[-2000:]
    over_rest, over_grpc = map(float, waits.split())
    told = done.stdout + done.stderr[-2000:]
    return Outcome(name, _peak_memory(pid), ATTACKS[name].bound, over_rest, over_grpc, told)


def _peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _watch(rest: str, over_grpc: str) -> None:
    """Poll health until stdin ends; print the longest waits in seconds."""
    with grpc.insecure_channel(over_grpc) as channel, ThreadPoolExecutor(3) as threads:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        asks: list[Callable[[], object]] = [
            lambda: attacks_rest.ask(rest, _HEALTH),
            lambda: check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT),
        ]
        for ask in asks:  # the first request connects
            ask()
        end = threads.submit(sys.stdin.read)

        def longest(ask: Callable[[], object]) -> float:
            most = 0.0
            while not end.done():
                began = time.monotonic()
                ask()
                most = max(most, time.monotonic() - began)
                time.sleep(0.005)
            return most

        print(*threads.map(longest, asks))


def main() -> None:
    """Print a row for each attack; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in --list; default: all")
    parser.add_argument("--list", action="store_true", help="print the names, and stop")
    parser.add_argument("--verbose", action="store_true", help="print the answers too")
    parser.add_argument("--send", metavar="REST,GRPC", help=argparse.SUPPRESS)
    parser.add_argument("--watch", metavar="REST,GRPC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or list(ATTACKS)
    if unknown := set(names) - set(ATTACKS):
        parser.error(f"unknown attacks: {', '.join(sorted(unknown))}; --list prints what there is")
    if options.list:
        print("\n".join(names))
    elif options.watch:
        _watch(*options.watch.split(","))
    elif options.send:
        for name in names:
            ATTACKS[name].send(*options.send.split(","))
    else:
        sys.exit(0 if _all_met(names, is_verbose=options.verbose) else 1)


def _all_met(names: Sequence[str], *, is_verbose: bool) -> bool:
    is_met = True
    for outcome in outcomes(names):
        is_met = is_met and outcome.is_met
        verdict = "ok" if outcome.is_met else "MISSED"
        print(f"{outcome.name:<40} {verdict:<7} {outcome}", flush=True)
        if is_verbose:
            print(f"    {outcome.told}", flush=True)
    return is_met


if __name__ == "__main__":
    main()
