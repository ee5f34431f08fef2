"""Send all targets the same images, and compare their labels and scores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlserve.client import Client, Prediction
from mlserve.client.answers import Score
from mlserve.compare.asking import WARM_UPS, each_in_turn
from mlserve.compare.result import BAD_INPUT, Row, are_refused_alike
from mlserve.deadline import Deadline
from mlserve.errors import InvalidInput, MlserveError, UsageError

Progress = Callable[[int, str], None]
"""Called with the number of finished images, and the name of the next."""


@dataclass(frozen=True, slots=True)
class _TimedAnswer:
    """A target's answer or error for an image, the other being None, and the time it took."""

    prediction: Prediction | None
    error: MlserveError | None
    milliseconds: float


@dataclass(slots=True)
class ImagePanel:
    """Clients of the targets. `timeout` (seconds) applies to each request.

    `is_whole` is False once the user has interrupted.
    """

    clients: list[Client]
    timeout: float
    is_whole: bool = True

    def ask_all(self, images: Sequence[str], runs: int, progress: Progress) -> list[list[Row]]:
        """Return a row for each target and image, over `runs` rounds of all images.

        All targets are asked about an image before the next image, starting with another target
        each time. Raises UsageError for a file that cannot be read, and a target's error if it has
        not answered yet. After Ctrl-C the rows are those of the images that all were asked about;
        if there is none, KeyboardInterrupt is raised.
        """
        self._warm_up(images)
        rows = [[Row(image) for image in images] for _ in self.clients]
        done = 0
        try:
            for run in range(runs):
                for number, image in enumerate(images):
                    progress(done, image)
                    answers = self._ask(_read(image), first=run + number)
                    for target, answer in enumerate(answers):
                        _add(rows[target][number], answers[0], answer)
                    done += 1
        except KeyboardInterrupt:
            if not done:
                raise
            self.is_whole = False
        return [of_target[:done] for of_target in rows]

    def _warm_up(self, images: Sequence[str]) -> None:
        for client in self.clients:
            answered = 0
            for image in [*images] * WARM_UPS:
                answer = _answer(client, _read(image), self.timeout)
                if answer.error and not isinstance(answer.error, InvalidInput):
                    raise answer.error
                answered += answer.prediction is not None
                if answered == WARM_UPS:
                    break

    def _ask(self, image: bytes, first: int) -> list[_TimedAnswer]:
        """Return the answers in the targets' order, asking the target numbered `first` first."""
        return each_in_turn(
            self.clients, first, lambda client: _answer(client, image, self.timeout)
        )


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
    if answer.error and answer.error.kind not in BAD_INPUT:
        return f"no answer: {answer.error.message}"
    said, expected = _said(answer), _said(reference)
    if said == expected or are_refused_alike(answer.error, reference.error):
        return None
    return f"{said}, the reference {expected}"


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
