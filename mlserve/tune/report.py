"""What `mlserve tune` prints: a row for each candidate, and why it won or lost."""

from __future__ import annotations

from mlserve.tune.candidates import tuned_part
from mlserve.tune.golden import agreement_text
from mlserve.tune.judge import Tried
from mlserve.tune.run import Tuned

HEADER = ("options", "p50 ms", "answers/s", "p50 ms*", "p99 ms*", "mb", "agreement", "result")
MEANING = (
    "p50 ms is the median of one client; with a *, and answers/s, of {many} clients at once. mb is "
    "the memory of the server. agreement is how many of the golden inputs get the reference's "
    "answer, and the largest difference; - where the model has none."
)
_NOTHING = "-"
_MEBIBYTE = 2**20


def rows(tuned: Tuned) -> list[list[str]]:
    """Return the table below HEADER: the medians of what was measured."""
    pairs = zip(tuned.tried, tuned.verdict.reasons, strict=True)
    return [[_named(tried), *_figures(tried), reason] for tried, reason in pairs]


def _named(tried: Tried) -> str:
    return " ".join(tuned_part(tried.options).argv()) or "(none)"


def _figures(tried: Tried) -> list[str]:
    if not tried.samples:
        return [_NOTHING] * (len(HEADER) - 2)
    memory = _NOTHING if tried.memory is None else f"{tried.memory / _MEBIBYTE:.0f}"
    return [
        f"{tried.latency:.1f}",
        f"{tried.throughput:.0f}",
        f"{tried.middle(lambda sample: sample.crowded.p50):.1f}",
        f"{tried.middle(lambda sample: sample.crowded.p99):.1f}",
        memory,
        agreement_text(tried.samples[-1].golden),
    ]
