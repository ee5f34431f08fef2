"""Starts a server for each target, asks all about the same images in turn, compares the answers."""

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
from mlserve.client.call import ONCE
from mlserve.compare.result import BAD_IMAGE, Row
from mlserve.compare.targets import ComparedTarget
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, UsageError
from mlserve.launch import ports
from mlserve.launch.logs import log_path
from mlserve.launch.ready import wait_until_ready
from mlserve.launch.serving import Launcher
from mlserve.launch.signals import Interrupts
from mlserve.launch.up import LaunchedServer, UpRequest, request_up, start, with_log

Tell = Callable[[str], None]
"""Called with what is being started."""
Progress = Callable[[int, str], None]
"""Called with how many images are done, and the name of the next."""

_HOST = "127.0.0.1"
_WARM_UPS = 3
_ANY_BAD_IMAGE = "invalid_input"
"""The kind that an API says which has no finer ones, such as gRPC's INVALID_ARGUMENT."""


@dataclass(frozen=True, slots=True)
class Served:
    """A target that answers at `endpoint`. What is None is not known of a foreign endpoint."""

    target: ComparedTarget
    endpoint: str
    pid: int | None = None
    ready_seconds: float | None = None

    def rss(self) -> int | None:
        """The resident memory of the server's process now, in bytes; None when it is gone."""
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss) or None
        except psutil.NoSuchProcess:
            return None


def requests_for(targets: Sequence[ComparedTarget]) -> list[UpRequest | None]:
    """The servers to start for the targets; None for an endpoint, which runs already.

    Each is mlserve's own, so that what differs is the runtime. Raises PluginError for a runtime
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
    """The targets, all answering; the servers that were started for it are stopped at the end.

    They start one after the other, so that none is in the way of another's time to ready. Raises
    as `mlserve up` does.
    """
    # It takes a while to import, which is no part of a server's time to ready.
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
    """Nothing is said of ports that the system chose."""


@dataclass(frozen=True, slots=True)
class _TimedAnswer:
    """What a target said of an image, and how long it took; one of the two is None."""

    prediction: Prediction | None
    error: MlserveError | None
    milliseconds: float


@dataclass(slots=True)
class ImagePanel:
    """The clients of the targets that are asked. `timeout` (seconds) is that of one question."""

    clients: list[Client]
    timeout: float

    def ask_all(self, images: Sequence[str], runs: int, progress: Progress) -> list[list[Row]]:
        """A row for each target and image, over `runs` rounds of all images.

        Every target is asked about an image before the next image comes, another one first each
        time. Raises UsageError for a file that cannot be read, and what a target fails with before
        it has answered at all.
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
        """The answer of each target, in the targets' order, the one of that number asked first."""
        count = len(self.clients)
        order = [(first + step) % count for step in range(count)]
        answers = {target: _answer(self.clients[target], image, self.timeout) for target in order}
        return [answers[target] for target in range(count)]


def panel(served: Sequence[Served], timeout: float, stack: ExitStack) -> ImagePanel:
    """A client for each target, closed with `stack`; `timeout` is that of one question."""
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
    """The largest difference between the best scores of two answers; None without scores.

    A label that only one of them lists has, in the other, at most the score of its last label: the
    difference is at least what lies between.
    """
    if not one or not other:
        return None
    ours, theirs = _by_label(one), _by_label(other)
    apart = [abs(ours[key] - theirs[key]) for key in ours.keys() & theirs.keys()]
    apart += _unlisted(ours, theirs) + _unlisted(theirs, ours)
    return max(apart)


def _by_label(scores: Sequence[Score]) -> dict[tuple[str, int], float]:
    """The scores by label; of labels that are equal, by their place among them too."""
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
    """Enters one more answer into the row; what was worst before stays."""
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
