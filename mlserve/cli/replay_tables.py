"""What `mlserve replay` prints as text: what a recording holds, and a replay beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlserve.bench.findings import milliseconds
from mlserve.cli.output import note, print_table, print_wrapped, say
from mlserve.errors import counted, readable
from mlserve.replay.bodies import Origin
from mlserve.wire.headers import STAGES

if TYPE_CHECKING:
    from mlserve.bench.tally import Tally
    from mlserve.recording.reading import Recording, Summary
    from mlserve.recording.records import RecordedRequest
    from mlserve.replay.agreement import Agreement
    from mlserve.replay.result import ReplayResult

_KINDS = ("model", "version", "signature", "api", "transport", "code", "refused")
_MOST_KINDS = 20
_MOST_SHOWN = 10
_MOST_ERRORS = 3
_PERCENTILES = {"p50 ms": 0.5, "p90 ms": 0.9, "p99 ms": 0.99, "max ms": 1.0}
_ORIGINS = {
    Origin.OWN: "with the body that they were recorded with",
    Origin.ALIKE: "with the recorded body of another of their kind",
    Origin.INPUT: "with --input in place of a body that was not recorded",
}
_NOTHING = "-"
_MEBIBYTE = 2**20


def request_line(request: RecordedRequest, *, with_bodies: bool) -> dict[str, Any]:
    """Return a request as data, with its bytes in base64 if they are wanted."""
    from mlserve.replay.result import in_utc

    line = {"time": in_utc(request.arrived), **request.to_json()}
    sample = request.sample
    if with_bodies and sample is not None:
        line["headers"] = dict(sample.headers)
        line["body"] = base64.b64encode(sample.body).decode()
        answer = sample.answer
        line["answer"] = None if answer is None else base64.b64encode(answer).decode()
    return line


def print_summary(recording: Recording, summary: Summary) -> None:
    """Print what a recording holds."""
    from mlserve.replay.result import in_utc

    size = sum(file.size for file in recording.files) / _MEBIBYTE
    files = f"{counted(len(recording.files), 'file')}, {size:.1f} MiB"
    if not summary.requests:
        say(f"no request is recorded yet ({files})")
    else:
        seconds = summary.seconds
        rate = f", {summary.requests / seconds:.3g} a second" if seconds else ""
        say(f"{counted(summary.requests, 'request')} in {seconds:.1f} s{rate} ({files})")
        say(f"from {in_utc(summary.first)} to {in_utc(summary.last)}")
        say(
            f"{_share(summary.in_time, summary.requests)} were answered in time; "
            f"{summary.sampled} have their bodies"
        )
        say()
        _print_kinds(summary)
    for problem in recording.problems:
        note(f"warning: {problem}")


def _print_kinds(summary: Summary) -> None:
    counts = summary.counts(*_KINDS).most_common()
    rows = [[str(count), *_described(kind)] for kind, count in counts[:_MOST_KINDS]]
    print_table(("requests", "model", "over", "outcome"), rows)
    if len(counts) > _MOST_KINDS:
        say(f"... and {len(counts) - _MOST_KINDS} more kinds; --output json has them")


def _described(kind: Sequence[str]) -> list[str]:
    """Return the model, the way and the outcome of a kind of request in words."""
    model, version, signature, api, transport, code, refused = map(readable, kind)
    asked = (f"{model}@{version}" if version else model) or _NOTHING
    return [
        f"{asked} {signature}".rstrip(),
        f"{api} {transport}".strip(),
        f"{code} ({refused})" if refused else code,
    ]


def print_result(result: ReplayResult) -> None:
    """Print a replay beside what was recorded."""
    say(f"replayed to {readable(result.asked)}: {result.replayed.tally.requests} requests")
    for origin, words in _ORIGINS.items():
        if count := result.origins.get(origin, 0):
            say(f"  {count} {words}")
    for reason, count in result.left_out.items():
        say(f"  {count} left out: {readable(reason)}")
    say()
    print_table(("", "recorded", "replayed"), list(_rows(result.recorded, result.tally)))
    for model, (before, now) in result.by_model.items():
        say()
        say(readable(model) or "refused before their model was known")
        print_table(("", "recorded", "replayed"), list(_rows(before, now)))
    say()
    _print_agreement(result.agreement)
    for text, count in result.errors.most_common(_MOST_ERRORS):
        said = f"{counted(count, 'request')} with a recorded answer: {text}"
        print_wrapped(said, "  ", first="error of ")
    for held in result.held:
        say(str(held))
    print_wrapped(
        "recorded times are those in the server, from a request's arrival to its answer; replayed "
        "times are what the callers saw, from the moment at which a request was due",
        "",
    )
    for warning in result.warnings:
        print_wrapped(f"warning: {warning}", "  ", first="")
    if not result.is_whole:
        note("interrupted: this is what was replayed until then")


def _rows(before: Tally, now: Tally) -> Iterator[list[str]]:
    pair = before, now
    yield ["requests", *(str(each.requests) for each in pair)]
    yield ["in time", *(_share(each.in_time, each.requests) for each in pair)]
    yield ["in time/s", *(f"{each.goodput:.4g}" for each in pair)]
    for name, kind in (("late", "late"), ("no answer in time", "deadline_exceeded")):
        if any(each.count(kind) for each in pair):
            yield [name, *(str(each.count(kind)) for each in pair)]
    if any(each.count("left") for each in pair):
        yield ["left by their callers", *(str(each.count("left")) for each in pair)]
    for what in ("refused", "failed"):
        counts = [getattr(each, what) for each in pair]
        for kind in sorted({*counts[0], *counts[1]}):
            yield [f"{what} ({kind})", *(str(count.get(kind, 0)) for count in counts)]
    for name, share in _PERCENTILES.items():
        yield [name, *(milliseconds(each.answers.quantile(share)) for each in pair)]
    for stage in STAGES:
        if all(stage in each.stages for each in pair):
            medians = (each.stages[stage].quantile(0.5) for each in pair)
            yield [f"{stage}, p50 ms", *map(milliseconds, medians)]


def _print_agreement(found: Agreement) -> None:
    if not found.recorded:
        say("answers: none were recorded to compare with (--record-bodies)")
        return
    same = found.compared - len(found.differences)
    parts = [f"{same} of {found.compared} compared answers are the same"]
    if found.labelled:
        kept = found.labelled - len(found.label_changes)
        parts.insert(0, f"{kept} of {found.labelled} labels are the same")
    if found.compared < found.recorded:
        parts.append(f"{found.recorded - found.compared} of {found.recorded} were not compared")
    if math.isfinite(found.largest) and found.largest:
        parts.append(f"numbers are at most {found.largest:.2g} apart")
    print_wrapped("; ".join(parts), "  ", first="answers: ")
    for each in found.label_changes[:_MOST_SHOWN]:
        say(f"  request {each.index}: {each.before}, now {each.now}")
    if len(found.label_changes) > _MOST_SHOWN:
        say(f"  ... and {len(found.label_changes) - _MOST_SHOWN} more; --output json has a hundred")


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.2%})" if whole else _NOTHING
