"""Reports on very much, and on nearly nothing."""

from __future__ import annotations

import math
import random
import re

import pytest

from mlserve.bench import report as bench_report
from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult
from mlserve.bench.tally import ANSWERED, Tally
from mlserve.bench.target import Target
from mlserve.certify import report as certify_report
from mlserve.certify.result import Certified, GoldenResult
from mlserve.compare import images_report
from mlserve.compare.findings import latency_sentence
from mlserve.compare.result import ImageComparison, ImagesResult, Row
from mlserve.compare.targets import ComparedTarget
from mlserve.report.plots import Distances, distances


def _compared(
    count: int, *, apart: float = 0.5, tolerance: float = 1e-4, times: tuple[float, float] = (9, 9)
) -> ImageComparison:
    """Two endpoints that were asked about so many images, half of which differ."""
    images = [f"photos/{number:06}.jpg" for number in range(count)]
    targets = []
    for place, name in enumerate(("a:8500", "b:8500")):
        rows = [Row(image, "ox", 0.5, milliseconds=[times[place]]) for image in images]
        for number, row in enumerate(rows):
            row.score_difference = apart * place * (number % 2)
        targets.append(ImagesResult(target=ComparedTarget(name, "m", endpoint=name), rows=rows))
    return ImageComparison(images=images, targets=targets, tolerance=tolerance, runs=1)


@pytest.mark.slow
def test_a_report_on_very_many_images_is_no_larger_than_one_that_can_be_opened() -> None:
    page = images_report.page(_compared(20_000))

    assert len(page) < 2_000_000
    assert "different: 10000 of 20000 images" in page
    assert "9980 images more with a difference" in page
    assert "And 8980 more; --output json lists them all." in page
    assert "10000 images without a difference above the tolerance" in page
    assert page.count("<circle") < 2000
    assert "only the one that is furthest away is drawn" in page


def test_of_many_distances_the_furthest_are_drawn() -> None:
    chance = random.Random(1)
    values = [(n, f"{n}.jpg", chance.random() * 1e-3) for n in range(9000)]
    values[4711] = (4711, "worst.jpg", 0.7)

    plot = distances("Differences", [Distances("x", 0, values)], 9000, 1e-4, "")

    assert plot.count("worst.jpg: 0.7") == 2
    few = [(n, "a.jpg", 1.0) for n in range(300)]
    assert distances("Differences", [Distances("x", 0, few)], 300, 1e-4, "").count("<circle") == 600


@pytest.mark.parametrize("values", [[math.inf], [0.0, math.inf], [math.nan]])
def test_distances_that_have_no_power_of_ten(values: list[float]) -> None:
    found = [(place, "a.jpg", value) for place, value in enumerate(values)]

    plot = distances("Differences", [Distances("x", 0, found)], len(found), 0.0, "")

    assert plot.count("<circle") == 2 * len(values)
    assert ">∞</text>" in plot


def test_nothing_is_said_of_what_was_not_compared() -> None:
    assert "Nothing was compared." in distances("Differences", [Distances("x", 0, [])], 0, 1.0, "")
    golden = GoldenResult("R", 2, 1, 0.5, 0.0, False, distances=[("one", 0.0), ("two", 0.5)])
    page = certify_report.page([Certified("m@1", "m@1", "echo", golden)])
    assert "Every difference is 0." not in page
    assert ">∞</text>" in page


def test_one_image_and_a_tolerance_of_nothing() -> None:
    page = images_report.page(_compared(1, tolerance=0.0))

    assert "same: 1 image, 2 targets, every difference within 0" in page
    assert "b:8500 gives the image the label that a:8500 gives." in page
    assert "Every difference is 0." in page
    assert "Dashed" not in page
    assert "Dashed" in images_report.page(_compared(1, tolerance=0.1))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((0.5, 100.0), "a:8500 0.5 ms, b:8500 100 ms (200 times as long)"),
        ((2000.0, 1999.0), "a:8500 2 s, b:8500 2 s (about as long)"),
        ((1234.0, 617.0), "a:8500 1.23 s, b:8500 617 ms (0.5 times as long)"),
    ],
)
def test_medians_are_written_in_full(times: tuple[float, float], said: str) -> None:
    assert said in latency_sentence(_compared(2, times=times))


def test_scores_are_written_in_full() -> None:
    page = images_report.page(_compared(2, apart=255.0))

    assert "The scores that the servers answer differ by up to 255." in page
    assert "end to end: 255" in page
    assert "e+0" not in re.sub(r"base64,[^\"]*", "", page)


def _measured(target: Target, clients: int, count: int, milliseconds: float = 20.0) -> Measurement:
    tally = Tally(seconds=3.0)
    for _ in range(count):
        tally.latencies[ANSWERED].add(milliseconds / 1000)
    return Measurement(target, ClosedLoop(clients), Window(3.0, 1.0, 0.5), [tally])


def test_a_load_without_an_answer_has_no_time() -> None:
    target = Target.of_http("a:8501", "http://127.0.0.1:8501/v1", b"{}", timeout=1.0)
    one, four = _measured(target, 1, 60, 12_345.0), _measured(target, 4, 0)

    page = bench_report.page(BenchResult([target], one.window, 1, [one, four]))

    titles = re.findall(r"<title>(a:8501, [^<]*)</title>", page)
    assert titles.count("a:8501, 1 client") == 4  # goodput and p99, wide and narrow
    assert titles.count("a:8501, 4 clients") == 2
    assert "e+0" not in page
    nothing = bench_report.page(
        BenchResult([target], one.window, 1, [four, _measured(target, 2, 0)])
    )
    assert "There was no answer, so there is nothing to draw." in nothing


def test_equal_loads_are_not_told_apart() -> None:
    target = Target.of_http("a:8501", "http://127.0.0.1:8501/v1", b"{}", timeout=1.0)
    loads = [_measured(target, clients, 60) for clients in range(1, 7)]

    page = bench_report.page(BenchResult([target], loads[0].window, 1, loads))

    assert "at 1 client; at no other load more." in page
