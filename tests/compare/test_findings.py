"""The sentences of a comparison: what was measured, and what both manifests say of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlserve.artifact import MANIFEST_NAME, Manifest
from mlserve.compare.findings import findings, latency_sentence
from mlserve.compare.result import Difference, ImageComparison, ImagesResult, Row, Stages
from mlserve.compare.targets import ComparedTarget, resolve
from mlserve.pipeline import Exif
from mlserve.store import Store
from tests.harness.echo import manifest, put_version

Exported = Callable[..., ComparedTarget]


@pytest.fixture
def exported(home: Path) -> Exported:
    """Writes a version whose pipeline has these changes; returns the target."""

    def write(version: int, **changes: Any) -> ComparedTarget:
        plain = manifest()
        assert plain.pipeline is not None
        precision = changes.pop("precision", plain.precision)
        digest = changes.pop("weights_digest", plain.weights_digest)
        pipeline = replace(plain.pipeline, **{"scale": 1 / 255, **changes})
        whole: Manifest = replace(
            plain, pipeline=pipeline, precision=precision, weights_digest=digest
        )
        put_version(Store().base_path("echo", "m") / str(version), manifest=whole)
        [target] = resolve([f"echo@{version}"])
        return target

    return write


def _stages(decoded: float, resized: float, scores: float) -> Stages:
    found = {"decoded": decoded, "resized": resized, "scores": scores}
    return Stages({name: Difference(value, value / 2) for name, value in found.items()})


def _row(number: int, stages: Stages | None = None, **more: Any) -> Row:
    return Row(f"photos/{number}.jpg", **{"label": "sorrel", "stages": stages, **more})


def _said(targets: list[ComparedTarget], *rows: list[Row]) -> list[str]:
    """The sentences on the last target; the reference answers `sorrel` to everything."""
    reference = [Row(row.image, label="sorrel") for row in rows[-1]]
    results = [
        ImagesResult(target=target, rows=of_target)
        for target, of_target in zip(targets, [*[reference][: 2 - len(rows)], *rows], strict=True)
    ]
    found = ImageComparison(
        images=[row.image for row in rows[-1]], targets=results, tolerance=1e-4, runs=1
    )
    return findings(found)[-1].sentences


def test_a_wrong_scale_is_named_from_both_manifests(exported: Exported) -> None:
    targets = [exported(1), exported(2, scale=2 / 255, offset=-1.0)]
    rows = [_row(n, _stages(0, 1, 0.3), score_difference=0.3) for n in range(2)]

    assert _said(targets, rows) == [
        "echo@2 gives all 2 images the label that echo@1 gives.",
        (
            "Decoding agrees everywhere; the first difference is in `resized`, in 2 of 2 "
            "images, by up to 1: echo@1 scales to 0..1, echo@2 to -1..1."
        ),
        "The scores that the servers answer differ by up to 0.3.",
    ]


def test_what_the_manifests_do_not_say_is_not_guessed(exported: Exported) -> None:
    targets = [exported(1), exported(2)]

    said = _said(targets, [_row(0, _stages(0, 1, 0.3))])
    assert said[1] == (
        "Decoding agrees everywhere; the first difference is in `resized`, in 1 of 1 image, by up "
        "to 1. The manifests say nothing different of this stage."
    )
    artifact = targets[1].artifact
    assert artifact is not None
    (artifact.path / MANIFEST_NAME).unlink()
    said = _said(targets, [_row(0, _stages(0, 0, 0.3))])
    assert said[1] == (
        "Decoding and the resized pixels agree everywhere; the first difference is in `scores`, in "
        "1 of 1 image, by up to 0.3. There is no manifest of echo@2 that could say why."
    )


def test_images_that_part_in_other_stages_are_counted_apart(exported: Exported) -> None:
    digest = f"sha256:{'b' * 64}"
    targets = [exported(1), exported(2, exif=Exif.APPLY, weights_digest=digest)]
    rows = [_row(0, _stages(math.inf, math.inf, 0.2)), _row(1, _stages(0, 0, 0.1))]

    said = _said(targets, [*rows, _row(2, _stages(0, 0, 0))])

    assert said[1] == (
        "The first difference is in `decoded`, in 1 of 3 images (of another shape, or not finite): "
        "echo@1 ignores EXIF, echo@2 applies the EXIF orientation."
    )
    assert said[2].startswith(
        "Where that agrees, the first difference is in `scores`, in 1 of 3 images, by up to 0.1: "
        "echo@1 has the weights sha256:"
    )


def test_what_no_image_shows_is_said_too(exported: Exported) -> None:
    targets = [exported(1), exported(2, exif=Exif.APPLY, weights_digest="sha256:" + "b" * 64)]

    said = _said(targets, [_row(n, _stages(0, 0, 7e-7), score_difference=0.0) for n in range(2)])

    assert said[1:] == [
        (
            "Stage by stage, echo@2 agrees with echo@1 on all 2 images: `decoded` and "
            "`resized` bit for bit, `scores` within 7e-07."
        ),
        (
            "The manifests differ about `decoded`, which shows in none of these images: echo@1 "
            "ignores EXIF, echo@2 applies the EXIF orientation."
        ),
        "The scores that the servers answer are equal.",
    ]


def test_later_stages_are_not_hidden_by_the_first(exported: Exported) -> None:
    targets = [exported(1), exported(2, scale=1.0, weights_digest="sha256:" + "b" * 64)]

    said = _said(targets, [_row(0, _stages(0, 254, 0.3))])

    assert said[2].startswith("The manifests also differ about `scores`: echo@1 has the weights")


def test_servers_that_differ_where_no_stage_does(exported: Exported) -> None:
    said = _said([exported(1), exported(2)], [_row(0, _stages(0, 0, 0), score_difference=0.2)])

    assert said[1] == "Stage by stage, echo@2 agrees with echo@1 on the image, bit for bit."
    assert said[2] == (
        "Although every stage agrees, the scores that the servers answer differ by up to 0.2."
    )


def test_labels_refusals_and_failures(exported: Exported) -> None:
    targets = [exported(1), exported(2)]
    answered = {"label": "sorrel"}
    refused = {"label": None, "refusal": "not_an_image"}
    rows = [
        (answered, {"label": "ox", "disagreement": "'ox', the reference 'sorrel'"}),
        (answered, {**refused, "disagreement": "not_an_image, the reference 'sorrel'"}),
        (refused, {"label": "ox", "disagreement": "'ox', the reference not_an_image"}),
        (refused, refused),
        (answered, {"label": None, "refusal": "unavailable", "disagreement": "no answer: gone"}),
        (answered, answered),
    ]
    ours, theirs = (
        [_row(number, **pair[side]) for number, pair in enumerate(rows)] for side in (0, 1)
    )

    assert _said(targets, ours, theirs) == [
        (
            "echo@2 gives another label than echo@1 to 1 of 2 images: 0.jpg ('ox', the reference "
            "'sorrel')."
        ),
        "echo@2 refuses 1 image, 1.jpg (not_an_image), which echo@1 takes.",
        "echo@1 refuses 1 image, 2.jpg (not_an_image), which echo@2 takes.",
        "Both refuse 1 image for the same reason.",
        "echo@2 failed to answer 1 image, 4.jpg (unavailable).",
    ]


def test_an_endpoint_has_no_stages(exported: Exported) -> None:
    endpoint = ComparedTarget("gpu:8500", "m", endpoint="gpu:8500")

    assert _said([exported(1), endpoint], [_row(0)])[1] == (
        "gpu:8500 is an endpoint, so only its answers are known, not its stages."
    )


def test_the_latencies_are_said_beside_the_first(exported: Exported) -> None:
    targets = [exported(1), exported(2)]
    results = [
        ImagesResult(target=target, rows=[_row(0, milliseconds=[milliseconds] * 20)])
        for target, milliseconds in zip(targets, (20.0, 8.0), strict=True)
    ]
    found = ImageComparison(images=["0.jpg"], targets=results, tolerance=1e-4, runs=20)

    assert latency_sentence(found) == (
        "Median latency, one request at a time: echo@1 20 ms, echo@2 8 ms (0.4 times as long)."
    )
    results[1].rows = [_row(0, milliseconds=[8.0])]
    assert latency_sentence(found).endswith("; there are few answers (1).")
    for result in results:
        result.rows = [_row(0)]
    assert latency_sentence(found) == ""
