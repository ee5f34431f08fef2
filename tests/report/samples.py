"""Reports of every kind, made of results that are made up: what a browser is shown in the tests."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlserve.bench import report as bench_report
from mlserve.bench.load import ClosedLoop, Load, OpenLoop, Window
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult
from mlserve.bench.slo import Slo
from mlserve.bench.tally import ANSWERED, Tally
from mlserve.bench.target import Target
from mlserve.certify import report as certify_report
from mlserve.certify.result import Certified, FilesResult, GoldenResult, Problem
from mlserve.compare import images_report, rows_report
from mlserve.compare.result import Difference, ImageComparison, ImagesResult, Row, Stages
from mlserve.compare.row_values import OutputDifference
from mlserve.compare.rows_result import TableComparison, TableResult
from mlserve.compare.targets import ComparedTarget
from mlserve.rows.table import Place
from mlserve.served_model import ServedModel
from mlserve.testing.images import noise, saved
from tests.harness.echo import manifest, put_version

LONG = "onnxruntime/a-model-with-a-very-long-name-that-somebody-chose-in-a-hurry@20261127"
COMMAND = "mlserve compare tfserving@1 onnxruntime@2 photos/ --runs 3 --report report.html"
HOSTILE = (
    "<script>document.title = 'run'</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table><h1>`code` &lt; ]]> -->",
    "\u202egpj.\u200b\t\n\x07",
    "<svg onload=alert(1)>",
)
_LABELS = ("ox", "zebra", "an-unusually-long-label-of-a-class-without-any-space-in-it", "cat")


def photos(folder: Path, count: int = 24) -> list[str]:
    """Files of images of several shapes; the last one is cut short."""
    for number in range(count):
        width, height = ((640, 427), (300, 600), (48, 64), (900, 120))[number % 4]
        data = saved(noise(width, height, seed=number))
        is_cut = number == count - 1
        (folder / f"photo-{number:03}.jpg").write_bytes(data[:200] if is_cut else data)
    return sorted(map(str, folder.iterdir()))


def _stages(*largest: float) -> Stages:
    names = ("decoded", "resized", "scores")
    return Stages(
        {name: Difference(value, value / 3) for name, value in zip(names, largest, strict=True)},
        has_same_top_1=largest[2] < 0.2,
    )


def _rows(images: list[str], chance: random.Random, about: float, runs: int = 3) -> list[Row]:
    """The answers of a target that takes about so many milliseconds; the last image is refused."""
    rows = [
        Row(
            image,
            label="sorrel",
            score=chance.uniform(0.4, 1),
            milliseconds=[about * chance.lognormvariate(0, 0.2) for _ in range(runs)],
        )
        for image in images
    ]
    rows[-1] = Row(images[-1], refusal="not_an_image")
    return rows


def _target(name: str, folder: Path, **pipeline: Any) -> ComparedTarget:
    """An exported model with that name, whose pipeline has these changes; its files are real."""
    plain = manifest("efficientnet_lite0")
    assert plain.pipeline is not None
    changed = replace(plain, pipeline=replace(plain.pipeline, **{"scale": 1 / 255, **pipeline}))
    base = Path(tempfile.mkdtemp(dir=folder))
    put_version(base / "1", manifest=changed)
    served = ServedModel("echo", "efficientnet_lite0", base, expected=(1,))
    return ComparedTarget(name, "efficientnet_lite0", served)


def _result(
    name: str, rows: list[Row], megabytes: float | None, ready: float | None, **pipeline: Any
) -> ImagesResult:
    """A target of `rows`: an exported model, or an endpoint if nothing is known of its memory."""
    if megabytes is None:
        target = ComparedTarget(name, "efficientnet_lite0", endpoint=name)
    else:
        target = _target(name, Path(rows[0].image).parents[1], **pipeline)
    return ImagesResult(
        target=target,
        runs_on=f"{name.partition('@')[0]} 1.32.0; fp32; CPU",
        rows=rows,
        rss=None if megabytes is None else int(megabytes * 2**20),
        ready_seconds=ready,
    )


def _with_stages(rows: list[Row], of: Callable[[int], Stages], apart: float) -> list[Row]:
    for number, row in enumerate(rows[:-1]):
        row.stages, row.score_difference = of(number), apart
    rows[-1].stages = Stages({}, refusals=("not_an_image", "not_an_image"))
    return rows


def _images(images: list[str], *results: ImagesResult, runs: int = 3) -> str:
    found = ImageComparison(images=images, targets=results, tolerance=1e-4, runs=runs)
    return images_report.page(found, COMMAND)


def agreeing(images: list[str]) -> str:
    """Three backends that agree, one of them ten times as fast."""
    chance = random.Random(1)
    first = _result("tfserving@1", _rows(images, chance, 41.0), 912, 6.2)
    near = _with_stages(_rows(images, chance, 17.0), lambda n: _stages(0, 0, n * 3e-8), 3e-7)
    fast = _with_stages(_rows(images, chance, 3.1), lambda _: _stages(0, 0, 0), 0.0)
    return _images(
        images,
        first,
        _result("onnxruntime@1", near, 214, 0.8),
        _result("openvino@1", fast, 187, 1.4),
    )


def differing(images: list[str]) -> str:
    """Two backends with another scale, and labels that change with it."""
    chance = random.Random(2)
    rows = _with_stages(
        _rows(images, chance, 18.0), lambda n: _stages(0, 1.0, 0.01 * n + 1e-5), 0.3
    )
    for number in range(3, 9):
        rows[number].label = _LABELS[number % 4]
        rows[number].disagreement = f"{rows[number].label!r}, the reference 'sorrel'"
    rows[2].stages = _stages(math.inf, math.inf, 0.4)
    first = _result("tfserving@1", _rows(images, chance, 21.0), 912, 6.2)
    other = _result("onnxruntime@2", rows, 214, 0.8, scale=2 / 255, offset=-1.0)
    return _images(images, first, other)


def failing(images: list[str]) -> str:
    """An endpoint that stopped to answer, beside one with a long name; few answers."""
    chance = random.Random(3)
    few = images[:6]
    rows = _rows(few, chance, 18.0, runs=1)
    for row in rows[2:]:
        row.label, row.refusal, row.milliseconds = None, "unavailable", []
        row.disagreement = (
            "no answer: the server at gpu-host.example:8500 is gone: connection refused, as it "
            "was asked for the third time"
        )
    first = _result(LONG, _rows(few, chance, 240.0, runs=1), 912, 6.2)
    return _images(few, first, _result("gpu-host.example:8500", rows, None, None), runs=1)


def nothing(images: list[str]) -> str:
    """Two targets that answered no image."""
    rows = [[Row(images[0], refusal="not_an_image")] for _ in range(2)]
    return _images(images[:1], *(_result(f"echo@{n}", of, None, None) for n, of in enumerate(rows)))


def rows_of_tables(_: list[str]) -> str:
    """Tables: one output that differs, one that agrees."""
    chance = random.Random(4)
    results = [
        TableResult(
            target=ComparedTarget(name, "iris", endpoint=name),
            times=[chance.lognormvariate(1, 1.2) for _ in range(90)],
        )
        for name in ("127.0.0.1:8500", "http://gpu-host.example:8501")
    ]
    for number in range(1, 40):
        what = f"probabilities[1]: 0.{number}, the reference 0.5 (difference 0.1)"
        found = [
            OutputDifference("probabilities", 0.01 * number, 0.001, is_exact=False, what=what),
            OutputDifference("label", 0.0, 0.0, is_exact=True),
        ]
        results[1].take(Place("data/a-table-with-a-long-name.csv", number, number + 1), found, 0.1)
    found = TableComparison(
        files=("data/a-table-with-a-long-name.csv",),
        targets=results,
        tolerance=0.1,
        runs=3,
        rows=150,
        refused_rows=0,
    )
    return rows_report.page(found, "mlserve compare 127.0.0.1:8500 gpu-host.example:8501 t.csv")


def _tally(chance: random.Random, count: int, about: float) -> Tally:
    tally = Tally(seconds=3.0, server_cpu=1.5, generator_cpu=0.4, busiest_generator=0.2)
    for _ in range(count):
        tally.latencies[ANSWERED].add(about * chance.lognormvariate(0, 0.5))
        tally.add_stages({"queue": 2.0, "decode": 0.3, "run": 17.0, "encode": 0.1})
    tally.latencies["overloaded"].add(0.001)
    return tally


def bench(_: list[str]) -> str:
    """Two servers under four loads."""
    chance = random.Random(5)
    window = Window(seconds=3.0, warm_up=1.0, timeout=0.5)
    targets = [
        Target.of_http(name, "http://127.0.0.1:8501/v1", b"{}", timeout=1.0)
        for name in ("tfserving", "a-server-with-a-rather-long-name.example:8500")
    ]
    loads: list[tuple[Load, int, float]] = [
        (ClosedLoop(1), 150, 0.02),
        (ClosedLoop(4), 1500, 0.08),
        (OpenLoop(20.0), 60, 0.02),
        (OpenLoop(200.0), 15, 0.3),
    ]
    measurements = [
        Measurement(target, load, window, [_tally(chance, count, about)], pss=200 << 20)
        for load, count, about in loads
        for target in targets
    ]
    result = BenchResult(targets, window, 1, measurements, slo=Slo.parse("p99=100ms"))
    return bench_report.page(result, "mlserve bench horse.jpg --concurrency 1,4 --rate 20,200")


def certify(images: list[str]) -> str:
    """A version that holds, one that has drifted, one that failed."""
    names = [f"crop {number} of a photo" for number in range(16)]
    near = [(name, number * 1e-8) for number, name in enumerate(names)]
    far = [(name, number * 1e-4) for number, name in enumerate(names)]
    holds = GoldenResult("TensorFlow 2.21.0", 16, 16, 1.5e-7, 1e-5, False, distances=near)
    problems = [Problem(name, f"scores differs by {value:.2g}") for name, value in far[1:]]
    drifted = replace(
        holds, same=1, difference=1.5e-3, problems=problems, distances=far, own_tolerance=0.02
    )
    files = FilesResult(
        "image",
        len(images),
        1,
        [0.3] * len(images),
        against="tfserving/m@1",
        same=20,
        difference=0.4,
        tolerance=2e-4,
        problems=[Problem(image, "'ox' instead of 'sorrel'") for image in images[-4:]],
    )
    found = [
        Certified("onnxruntime/m@1", "m@1", "ONNX Runtime 1.32.0; fp32; CPU", holds),
        Certified(LONG, LONG, "OpenVINO 2026.4; int8; CPU", drifted, files),
        Certified("torch/m@1", "m@1", why="it does not load: no such file", is_failed=True),
        Certified("sklearn/m@1", "m@1", why="it has no certificate"),
    ]
    return certify_report.page(found, "mlserve certify --report report.html")


def hostile(images: list[str]) -> str:
    """Names that are markup, in every place that a name has."""
    chance = random.Random(6)
    folder = Path(tempfile.mkdtemp(dir=Path(images[0]).parents[1])) / "<b>photos & more<!--"
    folder.mkdir()
    for number, name in enumerate(HOSTILE):
        (folder / f"{name.replace('/', '_')}.jpg").write_bytes(saved(noise(64, 48, seed=number)))
    own = sorted(map(str, folder.iterdir()))
    own.append(images[-1])
    rows = _with_stages(_rows(own, chance, 18.0), lambda _: _stages(0, 255.0, 0.5), 0.5)
    for row, label in zip(rows[:-1], HOSTILE, strict=True):
        row.label, row.disagreement = label, f"{label!r}, the reference 'sorrel'"
    first = _result(HOSTILE[0], _rows(own, chance, 21.0), 912, 6.2)
    other = _result(HOSTILE[1], rows, 214, 0.8, scale=2 / 255, offset=-1.0)
    other.runs_on = HOSTILE[2]
    found = ImageComparison(images=own, targets=[first, other], tolerance=0.0, runs=3)
    return images_report.page(found, f"mlserve compare {' '.join(HOSTILE)}")


SAMPLES: dict[str, Callable[[list[str]], str]] = {
    each.__name__: each
    for each in (*(agreeing, differing, failing, nothing, hostile, rows_of_tables, bench, certify),)
}
