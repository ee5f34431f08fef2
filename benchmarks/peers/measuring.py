"""Measure the servers in turn: each is started, checked, loaded and ended once a round."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exchanges import Exchange
from figures import Closed, Overload, Round, Trial
from running import NotStarted, Running, running
from servers import Peer, Settings

from mlserve.bench.arrivals import Arrivals
from mlserve.bench.load import ClosedLoop, OpenLoop, Window
from mlserve.bench.measure import measure
from mlserve.bench.measurement import Measurement
from mlserve.bench.target import Target
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection

WARM_UP = 0.3
TIMEOUT = 1.0
"""Seconds that a caller of the overload waits."""
OVERLOAD = 3
_NO_LIMIT = 60.0
_BUSY = 16
"""Clients that settings are chosen by, and that the neighbour's figures are of."""
_TOLERANCE = 1e-3
"""What a score may differ by: threads add numbers up in another order."""
IN_PROCESS = "in process"


class DifferentAnswer(Exception):
    """A server does not answer what the model answers in process."""


@dataclass(frozen=True)
class Subject:
    """The model, the images that are sent, and what the model answers to each in process."""

    name: str
    folder: Path
    images: tuple[bytes, ...]
    answers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    clients: tuple[int, ...]
    seconds: float
    overload_seconds: float
    """0 leaves the overload out."""
    cpus: int


def check(server: Running, subject: Subject) -> None:
    """Compare the answers to all images. Raises DifferentAnswer."""
    for image, (label, score) in zip(subject.images, subject.answers, strict=True):
        found_label, found_score = server.answer(image)
        is_close = found_score is None or abs(found_score - score) < _TOLERANCE
        if found_label != label or not is_close:
            raise DifferentAnswer(
                f"{server.peer.name} answers {found_label!r} ({found_score}) where the model says "
                f"{label!r} ({score})"
            )


def choose(peer: Peer, subject: Subject, plan: Plan) -> tuple[Settings, list[Trial]]:
    """Return the settings with which a server answers most, and what all of them gave.

    Raises NotStarted when it starts with none of them.
    """
    rates: dict[Settings, float] = {}
    offered = peer.settings(plan.cpus)
    if len(offered) == 1:
        return offered[0], []
    for settings in offered:
        with running(peer, settings, subject.images[0], plan.cpus, model=subject.folder) as server:
            alone = closed_loop(server, subject, 1, plan.seconds / 2)
            pace = Pace(1, alone.rate)
            busy = closed_loop(server, subject, _BUSY, plan.seconds, pace=pace)
            rates[settings] = busy.rate
    trials = [Trial(subject.name, peer.name, str(each), rate) for each, rate in rates.items()]
    return max(rates, key=lambda settings: rates[settings]), trials


def measure_round(peer: Peer, settings: Settings, subject: Subject, plan: Plan) -> Round:
    """Start a server and measure all of it. Raises NotStarted and DifferentAnswer."""
    image = subject.images[0]
    with running(peer, settings, image, plan.cpus, model=subject.folder) as server:
        check(server, subject)
        found: list[Measurement] = []
        closed: dict[int, Closed] = {}
        pace = Pace()
        for n in plan.clients:
            closed[n] = closed_loop(server, subject, n, plan.seconds, found, pace)
            pace = Pace(n, closed[n].rate)
        pss = server.pss()
        neighbour = None
        if peer.is_ours or peer.environment == "fastapi":
            with _neighbour():
                slower = Pace(pace.left, pace.rate / 2)
                neighbour = closed_loop(server, subject, _BUSY, plan.seconds, found, slower)
        capacity = max(each.rate for each in closed.values())
        overload = None
        if plan.overload_seconds:
            overload = _overload(server, subject, capacity, plan.overload_seconds, found)
        warnings = tuple(dict.fromkeys(text for each in found for text in each.warnings))
        return Round(
            model=subject.name,
            server=peer.name,
            settings=str(settings),
            is_ours=peer.is_ours,
            ready=server.seconds_to_ready,
            pss=pss,
            closed=closed,
            overload=overload,
            neighbour=neighbour,
            warnings=warnings,
        )


def in_process(subject: Subject, plan: Plan, image: Path) -> Iterator[Round]:
    """Yield the ceilings: callers of one session of one thread, and one caller with all threads."""
    for callers, threads in dict.fromkeys([(1, plan.cpus), (plan.cpus, 1)]):
        argv = in_process_command(subject.folder, image, callers, threads, plan.seconds)
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True, timeout=300)
        closed = Closed(**json.loads(done.stdout))
        named = f"{callers} caller{'s'[: callers != 1]}, {threads} thread{'s'[: threads != 1]}"
        yield Round(subject.name, IN_PROCESS, f"{named} a run", closed={callers: closed})


def in_process_command(
    model: Path, image: Path, callers: int, threads: int, seconds: float
) -> list[str]:
    """Return the command that runs the model without a server and prints a Closed as JSON."""
    script = Path(__file__).parent / "in_process.py"
    return list(map(str, [sys.executable, script, model, image, callers, threads, seconds]))


def target(server: Running, images: Sequence[bytes], timeout: float) -> Target:
    """Return the server for the load generator, which sends the images in turn."""
    asked = [server.exchange(image) for image in images]
    protocol = "grpc" if asked[0].is_grpc else "rest"
    prefix = "" if asked[0].is_grpc else "http://"
    connection = Connection.to(f"{prefix}127.0.0.1:{server.port}", protocol)
    return Target.of_calls(server.peer.name, connection, [_call(each) for each in asked], timeout)


def _call(exchange: Exchange) -> Call:
    return Call(exchange.path, exchange.body, exchange.headers)


@dataclass(frozen=True)
class Pace:
    """What a closed loop has to wait for: `left` requests of the loop before, at `rate` a second.

    Servers go on with requests whose callers have left, and a slow one may take longer than the
    loop for the first answer to each client. 0 is not known.
    """

    left: int = 0
    rate: float = 0.0

    def window(self, clients: int, seconds: float) -> Window:
        """Return a window that begins after those, and in which each client gets an answer."""
        if not self.rate:
            return Window(seconds, WARM_UP, _NO_LIMIT)
        warm_up = max(WARM_UP, (self.left + clients) / self.rate)
        return Window(max(seconds, 1.2 * clients / self.rate), warm_up, _NO_LIMIT)


def closed_loop(
    server: Running,
    subject: Subject,
    clients: int,
    seconds: float,
    found: list[Measurement] | None = None,
    pace: Pace = Pace(),
) -> Closed:
    """Measure a closed loop. Raises NotStarted when no request is answered."""
    asked = target(server, subject.images, _NO_LIMIT)
    (measured,) = measure([asked], [ClosedLoop(clients)], pace.window(clients, seconds))
    if found is not None:
        found.append(measured)
    p50, p99 = measured.latency(0.5), measured.latency(0.99)
    if p50 is None or p99 is None:
        raise NotStarted(f"{server.peer.name} answers nothing: {measured.tally.failed}")
    return Closed(measured.goodput, p50 * 1000, p99 * 1000)


def _overload(
    server: Running, subject: Subject, capacity: float, seconds: float, found: list[Measurement]
) -> Overload:
    rate = OVERLOAD * capacity
    window = Window(seconds, 2 * TIMEOUT, TIMEOUT)  # after the warm-up its queue is full
    (measured,) = measure(
        [target(server, subject.images, TIMEOUT)], [OpenLoop(rate, Arrivals())], window
    )
    found.append(measured)
    return Overload(rate, capacity, measured.goodput)


@contextmanager
def _neighbour() -> Iterator[None]:
    """Keep one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()
