"""Start a server for each target, send all targets the same images, and compare the answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import psutil

from mlserve.client import Client, Prediction
from mlserve.client.answers import Score
from mlserve.client.retries import ONCE
from mlserve.compare.result import BAD_IMAGE, Row
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, UsageError
from mlserve.launch import ports
from mlserve.launch.logs import log_path
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.records import Tell
from mlserve.launch.serving import Launcher
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import LaunchedServer, UpRequest, request_up, start, with_log

Progress = Callable[[int, str], None]
"""Called with the number of finished images, and the name of the next."""

_HOST = "127.0.0.1"
_WARM_UPS = 3
_ANY_BAD_IMAGE = "invalid_input"
"""Error kind of an API without finer ones, such as gRPC's INVALID_ARGUMENT."""


@dataclass(frozen=True, slots=True)
class Served:
    """A target that answers at `endpoint`. None means unknown, as for a given endpoint."""

    target: ComparedTarget
    endpoint: str
    pid: int | None = None
    ready_seconds: float | None = None

    def rss(self) -> int | None:
        """Return the server's resident memory in bytes; None if its process is gone."""
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss) or None
        except psutil.NoSuchProcess:
            return None


def requests_for(targets: Sequence[ComparedTarget]) -> list[UpRequest | None]:
    """Return the servers to start for the targets; None for an endpoint, which already runs.

    Each is mlserve's own server, so that only the runtimes differ. Raises PluginError for a runtime
    that is not installed.
    """
    where = ports.PortRequest(_HOST, 0, 0)
    return [
        request_up(target.serving, where, Launcher.EMBEDDED) if target.serving else None
        for target in targets
    ]


@contextmanager
def served(
    targets: Sequence[ComparedTarget],
    requests: Sequence[UpRequest | None],
    interrupts: Interrupts,
    tell: Tell,
) -> Iterator[list[Served]]:
    """Yield the targets, all answering; stop the servers started here at the end.

    They start one after the other, so that none slows another's start. Raises as `mlserve up` does.
    """
    # Its slow import must not count as a server's time to ready.
    import_module("mlserve.client")
    with ExitStack() as stack:
        found = []
        for index, (target, request) in enumerate(zip(targets, requests, strict=True)):
            if request:
                tell(f"starting {target.name}")
                name = f"compare-{index + 1}-{request.serving.name}"
                found.append(_start(target, request, name, interrupts, stack))
            else:
                found.append(Served(target, target.endpoint or ""))
        yield found


def _start(
    target: ComparedTarget, request: UpRequest, name: str, interrupts: Interrupts, stack: ExitStack
) -> Served:
    began = time.monotonic()
    with interrupts.held():
        started = start(request, ports.choose(request.ports), log_path(name), _say_nothing)
        server = LaunchedServer(replace(started.record, name=name), started.process)
        stack.callback(partial(_stop, server, interrupts))
    try:
        give_up = began + request.wait
        wait_until_ready(server.record, request.serving, give_up, server.require_alive)
    except MlserveError as error:
        raise error if server.has_ended else with_log(error, server.record) from error
    seconds = time.monotonic() - began
    return Served(target, server.record.grpc_endpoint, server.record.pid, seconds)


def _stop(server: LaunchedServer, interrupts: Interrupts) -> None:
    with interrupts.held():
        server.abandon()


def _say_nothing(_line: str) -> None:
    """Print nothing about ports that the system chose."""


@dataclass(frozen=True, slots=True)
class _TimedAnswer:
    """A target's answer or error for an image, the other being None, and the time it took."""

    prediction: Prediction | None
    error: MlserveError | None
    milliseconds: float


@dataclass(slots=True)
class ImagePanel:
    """Clients of the targets. `timeout` (seconds) applies to each request."""

    clients: list[Client]
    timeout: float

    def ask_all(self, images: Sequence[str], runs: int, progress: Progress) -> list[list[Row]]:
        """Return a row for each target and image, over `runs` rounds of all images.

        All targets are asked about an image before the next image, starting with another target
        each time. Raises UsageError for a file that cannot be read, and a target's error if it has
        not answered yet.
        """
        self._warm_up(images)
        rows = [[Row(image) for image in images] for _ in self.clients]
        for run in range(runs):
            for number, image in enumerate(images):
                progress(run * len(images) + number, image)
                answers = self._ask(_read(image), first=run + number)
                for target, answer in enumerate(answers):
                    _add(rows[target][number], answers[0], answer)
        return rows

    def _warm_up(self, images: Sequence[str]) -> None:
        for client in self.clients:
            answered = 0
            for image in [*images] * _WARM_UPS:
                answer = _answer(client, _read(image), self.timeout)
                if answer.error and not isinstance(answer.error, InvalidInput):
                    raise answer.error
                answered += answer.prediction is not None
                if answered == _WARM_UPS:
                    break

    def _ask(self, image: bytes, first: int) -> list[_TimedAnswer]:
        """Return the answers in the targets' order, asking the target numbered `first` first."""
        count = len(self.clients)
        order = [(first + step) % count for step in range(count)]
        answers = {target: _answer(self.clients[target], image, self.timeout) for target in order}
        return [answers[target] for target in range(count)]


def panel(served: Sequence[Served], timeout: float, stack: ExitStack) -> ImagePanel:
    """Return a client for each target, closed with `stack`; `timeout` applies to each request."""
    clients = [
        stack.enter_context(
            Client(
                each.endpoint,
                model=each.target.model,
                version=each.target.version,
                retries=ONCE,
            )
        )
        for each in served
    ]
    return ImagePanel(clients, timeout)


def score_difference(one: Sequence[Score], other: Sequence[Score]) -> float | None:
    """Return the largest difference between two answers' best scores; None without scores.

    If only one answer lists a label, its score in the other is at most that of the other's last
    label, so the difference is at least the gap to that.
    """
    if not one or not other:
        return None
    ours, theirs = _by_label(one), _by_label(other)
    apart = [abs(ours[key] - theirs[key]) for key in ours.keys() & theirs.keys()]
    apart += _unlisted(ours, theirs) + _unlisted(theirs, ours)
    return max(apart)


def _by_label(scores: Sequence[Score]) -> dict[tuple[str, int], float]:
    """Return the scores by label and, for equal labels, their position among them."""
    seen: Counter[str] = Counter()
    found = {}
    for row in scores:
        found[row.label, seen[row.label]] = row.score
        seen[row.label] += 1
    return found


def _unlisted(
    ours: dict[tuple[str, int], float], theirs: dict[tuple[str, int], float]
) -> list[float]:
    least = min(theirs.values())
    return [max(0.0, score - least) for key, score in ours.items() if key not in theirs]


def _answer(client: Client, image: bytes, timeout: float) -> _TimedAnswer:
    began = time.perf_counter()
    prediction = error = None
    try:
        prediction = client.predict(image, timeout=Deadline.after(timeout))
    except MlserveError as refused:
        error = refused
    return _TimedAnswer(prediction, error, (time.perf_counter() - began) * 1000)


def _add(row: Row, reference: _TimedAnswer, answer: _TimedAnswer) -> None:
    """Add one more answer to the row, which keeps the worst values so far."""
    if answer.prediction:
        row.label = answer.prediction.label
        row.score = answer.prediction.scores[0].score if answer.prediction.scores else None
        row.milliseconds.append(answer.milliseconds)
    row.refusal = answer.error.kind if answer.error else row.refusal
    row.disagreement = row.disagreement or _disagreement(reference, answer)
    if answer is not reference and answer.prediction and reference.prediction:
        apart = score_difference(reference.prediction.scores, answer.prediction.scores)
        if apart is not None:
            row.score_difference = max(apart, row.score_difference or 0.0)


def _disagreement(reference: _TimedAnswer, answer: _TimedAnswer) -> str | None:
    if answer.error and answer.error.kind not in BAD_IMAGE:
        return f"no answer: {answer.error.message}"
    said, expected = _said(answer), _said(reference)
    is_vague = answer.error and reference.error and _ANY_BAD_IMAGE in (said, expected)
    return None if said == expected or is_vague else f"{said}, the reference {expected}"


def _said(answer: _TimedAnswer) -> str:
    if answer.prediction:
        return repr(answer.prediction.label)
    return answer.error.kind if answer.error else "nothing"


def _read(image: str) -> bytes:
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{image} cannot be read: {error.strerror or error}", hint="leave it out, or repair it"
        ) from error
