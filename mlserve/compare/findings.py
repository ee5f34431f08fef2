"""What a comparison of images found, in sentences: measured, or said by the manifests of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlserve.compare.manifests import DECODED, LABELS, RESIZED, SCORES, Described, said_differently
from mlserve.compare.result import (
    BAD_INPUT,
    STAGES,
    Comparison,
    Difference,
    ImageComparison,
    ImagesResult,
    Row,
    TargetResult,
)
from mlserve.compare.targets import ComparedTarget
from mlserve.errors import counted, first_of, readable
from mlserve.percentiles import Percentiles, in_digits
from mlserve.report.plots import FEWEST, time_text

_NAMED = 3
"""The most images that a sentence names."""
_BEFORE = {
    DECODED: "",
    RESIZED: "decoding agrees everywhere; ",
    SCORES: "decoding and the resized pixels agree everywhere; ",
}
"""What there is to say of the stages before the first that differs."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found of a target, in sentences; what stands in backticks is a name as typed."""

    target: str
    sentences: list[str]


def findings(found: ImageComparison) -> list[Findings]:
    """Return what there is to say of each target, of the reference only if it failed.

    Labels and answers are held against the first target, stages against the first exported one.
    """
    reference, *others = found.targets
    said = [Findings(reference.target.name, list(_failures(reference)))]
    said += [Findings(each.target.name, list(_of_target(found, each))) for each in others]
    return [each for each in said if each.sentences]


def _of_target(found: ImageComparison, result: ImagesResult) -> Iterator[str]:
    reference = found.targets[0]
    yield from _labels(reference, result)
    yield from _refusals(reference, result)
    yield from _failures(result)
    if result.target.served is None:
        yield f"{result.target.name} is an endpoint, so only its answers are known, not its stages."
    if any(row.stages for row in result.rows):
        exported = next(each.target for each in found.targets if each.target.served)
        yield from _stages(exported, result, found.tolerance)
    yield from _answers(found, result)


def _labels(reference: ImagesResult, result: ImagesResult) -> Iterator[str]:
    """Yield in how many images the labels agree, and which do not."""
    one, other = reference.target.name, result.target.name
    pairs = [
        pair
        for pair in zip(reference.rows, result.rows, strict=True)
        if None not in (pair[0].label, pair[1].label)
    ]
    changed = [row for ours, row in pairs if is_label_changed(ours, row)]
    if changed:
        named = [f"{short_name(row.image)} ({row.disagreement})" for row in changed]
        yield (
            f"{other} gives another label than {one} to {len(changed)} of "
            f"{counted(len(pairs), 'image')}: {first_of(named, _NAMED)}."
        )
        if said := "; ".join(_causes(reference.target, result.target, LABELS)):
            yield f"The manifests differ about the labels: {said}."
    elif pairs:
        both = "" if len(pairs) == len(result.rows) else " that both answer"
        images = "the image" if len(pairs) == 1 else f"all {len(pairs)} images"
        yield f"{other} gives {images}{both} the label that {one} gives."


def _refusals(reference: ImagesResult, result: ImagesResult) -> Iterator[str]:
    """Yield which images only one of the two takes, and how many neither does."""
    one, other = reference.target.name, result.target.name
    pairs = list(zip(reference.rows, result.rows, strict=True))
    only_here = [row for ours, row in pairs if ours.label is not None and _is_refused(row)]
    only_there = [ours for ours, row in pairs if row.label is not None and _is_refused(ours)]
    both = [row for ours, row in pairs if _is_refused(ours) and _is_refused(row)]
    if only_here:
        yield f"{other} refuses {_named(only_here)}, which {one} takes."
    if only_there:
        yield f"{one} refuses {_named(only_there)}, which {other} takes."
    if alike := sum(row.disagreement is None for row in both):
        yield f"Both refuse {counted(alike, 'image')} for the same reason."


def _is_refused(row: Row) -> bool:
    return row.label is None and row.refusal in BAD_INPUT


def _failures(result: ImagesResult) -> Iterator[str]:
    rows = [row for row in result.rows if is_failed(row)]
    if rows:
        yield f"{result.target.name} failed to answer {_named(rows)}."


def _named(rows: Sequence[Row]) -> str:
    """Return how many images these are, which, and the kind of error of each that is named."""
    named = first_of([f"{short_name(row.image)} ({row.refusal})" for row in rows], _NAMED)
    return f"{counted(len(rows), 'image')}, {named}"


def is_failed(row: Row) -> bool:
    """Return whether a target failed to answer, at least once, and not because of the image."""
    return row.refusal is not None and row.refusal not in BAD_INPUT


def is_label_changed(reference: Row, row: Row) -> bool:
    """Return whether both answered, at least once with another label."""
    is_answered = reference.label is not None and row.label is not None
    return is_answered and row.disagreement is not None and not is_failed(row)


def first_difference(row: Row, tolerance: float) -> tuple[str, Difference] | None:
    """Return the first stage of an image that differs by more than the tolerance, if one does."""
    differences = row.stages.differences if row.stages else {}
    for stage in STAGES:
        if stage in differences and differences[stage].largest > tolerance:
            return stage, differences[stage]
    return None


def _stages(reference: ComparedTarget, result: ImagesResult, tolerance: float) -> Iterator[str]:
    """Yield in which stage the images part first, and what the manifests say of that."""
    rows = [row for row in result.rows if row.stages and row.stages.differences]
    if not rows:
        return
    first: dict[str, list[Difference]] = {}
    for row in rows:
        if (apart := first_difference(row, tolerance)) is not None:
            first.setdefault(apart[0], []).append(apart[1])
    if not first:
        yield _agreeing(reference, result, len(rows))
    lead = ""
    for stage in (each for each in STAGES if each in first):
        text = lead or _BEFORE[stage]
        text += f"the first difference is in `{stage}`, "
        text += f"in {len(first[stage])} of {counted(len(rows), 'image')}{_most(first[stage])}"
        yield _capital(f"{text}{_because(reference, result.target, stage)}")
        lead = "where that agrees, "
    yield from _unseen(reference, result.target, first)


def _agreeing(reference: ComparedTarget, result: ImagesResult, count: int) -> str:
    """Return the sentence for stages that all agree: bit for bit, or within how much."""
    largest = {stage: found.largest for stage, found in result.stages.items()}
    images = "the image" if count == 1 else f"all {count} images"
    said = f"Stage by stage, {result.target.name} agrees with {reference.name} on {images}"
    near = [f"`{stage}` within {in_digits(value, 2)}" for stage, value in largest.items() if value]
    if not near:
        return f"{said}, bit for bit."
    equal = " and ".join(f"`{stage}`" for stage, value in largest.items() if not value)
    return f"{said}: {f'{equal} bit for bit, ' if equal else ''}{' and '.join(near)}."


def _most(found: Sequence[Difference]) -> str:
    largest = max(each.largest for each in found)
    if math.isinf(largest):
        return " (of another shape, or not finite)"
    return f", by up to {in_digits(largest, 2)}"


def said_of(reference: ComparedTarget, other: ComparedTarget, about: str, what: str) -> str:
    """Return a sentence on what the manifests say differently of a stage, which `what` names."""
    if unknown := _unknown(reference, other):
        return f"There is no manifest of {unknown} that could say why."
    if causes := _causes(reference, other, about):
        return f"The manifests differ: {'; '.join(causes)}."
    return f"The manifests say nothing different of {what}."


def _because(reference: ComparedTarget, other: ComparedTarget, stage: str) -> str:
    """Return the end of a sentence: what the manifests say differently of that stage."""
    if causes := _causes(reference, other, stage):
        return f": {'; '.join(causes)}."
    return f". {said_of(reference, other, stage, 'this stage')}"


def _unknown(*targets: ComparedTarget) -> str:
    """Return the names of those without a manifest."""
    return " and ".join(each.name for each in targets if _described(each) is None)


def _causes(reference: ComparedTarget, other: ComparedTarget, about: str) -> list[str]:
    one, two = _described(reference), _described(other)
    return [] if one is None or two is None else said_differently(one, two, about)


def _described(target: ComparedTarget) -> Described | None:
    manifest = target.artifact.manifest if target.artifact else None
    return None if manifest is None else Described(target.name, manifest)


def _unseen(
    reference: ComparedTarget, other: ComparedTarget, first: Mapping[str, object]
) -> Iterator[str]:
    """Yield what the manifests say differently of stages that are the first to differ nowhere."""
    for number, stage in enumerate(STAGES):
        causes = [] if stage in first else _causes(reference, other, stage)
        if not causes:
            continue
        if any(each in first for each in STAGES[:number]):
            yield f"The manifests also differ about `{stage}`: {'; '.join(causes)}."
        elif stage != SCORES:  # equal scores of weights in other files are one model, saved twice
            yield (
                f"The manifests differ about `{stage}`, which shows in none of these images: "
                f"{'; '.join(causes)}."
            )


def _answers(found: ImageComparison, result: ImagesResult) -> Iterator[str]:
    """Yield how far the servers' answers are apart."""
    scores, stages = result.scores, result.stages.values()
    if scores is None:
        return
    if scores.largest <= found.tolerance:
        apart = (
            f"differ by {in_digits(scores.largest, 2)} at most" if scores.largest else "are equal"
        )
        yield f"The scores that the servers answer {apart}."
        return
    agrees = bool(stages) and all(each.largest <= found.tolerance for each in stages)
    lead = "although every stage agrees, " if agrees else ""
    yield _capital(
        f"{lead}the scores that the servers answer differ by up to {in_digits(scores.largest, 2)}."
    )


def latency_sentence(found: Comparison) -> str:
    """Return the median latencies, each beside the reference's; empty if nobody answered."""
    medians = [(each, Percentiles.from_values(each.milliseconds)) for each in found.targets]
    timed = [(each, times.p50) for each, times in medians if times is not None]
    if not timed:
        return ""
    first, median = timed[0]
    reference = median if first is found.targets[0] else 0.0
    words = [_in_words(each, value, first, reference) for each, value in timed]
    fewest = min(len(each.milliseconds) for each, _ in timed)
    few = f"; there are few answers ({fewest})" if fewest < FEWEST else ""
    return f"Median latency, one request at a time: {', '.join(words)}{few}."


def _in_words(result: TargetResult, median: float, first: TargetResult, reference: float) -> str:
    text = f"{result.target.name} {time_text(median)}"
    if result is first or not reference:
        return text
    times = in_digits(median / reference, 2)
    return f"{text} ({'about' if times == '1' else f'{times} times'} as long)"


def short_name(image: str) -> str:
    """Return the last part of an image's path, for a sentence."""
    return readable(image.rsplit("/", 1)[-1])


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
