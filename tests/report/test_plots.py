"""Plots: which scale they take, what is marked, and that texts lie on nothing else."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from mlserve.report import svg
from mlserve.report.plots import (
    Distances,
    Series,
    Times,
    cumulative,
    distances,
    series,
    time_axis,
    time_text,
)
from mlserve.report.svg import Frame, TextRow, curve, round_powers, ticks

FRAME = Frame("wide", 760.0)


def _times(values: list[float], number: int = 0) -> Times:
    return Times.from_values(f"target {number}", number, values)


def _drawn(plot: str) -> list[ET.Element]:
    """The drawings of a plot: the wide one and the narrow one."""
    return [ET.fromstring(text) for text in re.findall("<svg.*?</svg>", plot, re.DOTALL)]


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 322.0, [0, 100, 200, 300]),
        (0, 1.3, [0, 0.5, 1]),
        (0, 6.0, [0, 1, 2, 3, 4, 5, 6]),
        (80.1, 83.9, [81, 82, 83]),
    ],
)
def test_an_axis_has_round_numbers(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == found


def test_a_logarithmic_axis_has_powers_of_ten() -> None:
    assert round_powers(0.9, 130, (1, 2, 5)) == [1, 2, 5, 10, 20, 50, 100]
    assert round_powers(0.9, 130, (1,)) == [1, 10, 100]


@pytest.mark.parametrize(
    ("values", "is_logarithmic", "low"),
    [
        ([8.0, 30.0], False, 0.0),
        ([80.0, 84.0], False, 79.84),
        ([8.0, 81.0], True, 7.2),
        ([0.0, 81.0], False, 0.0),
        ([5.0, 5.0], False, 4.5),
        ([0.0], False, 0.0),
    ],
)
def test_the_axis_of_times_is_logarithmic_where_they_spread(
    values: list[float], is_logarithmic: bool, low: float
) -> None:
    axis = time_axis([_times(values)], FRAME)

    assert axis.is_logarithmic == is_logarithmic
    assert axis.low == pytest.approx(low)
    assert axis.low < axis.high
    assert FRAME.left <= axis.place(values[0]) <= axis.place(values[-1]) <= FRAME.width


def test_twenty_answers_are_a_line_with_its_percentiles_and_fewer_are_dots() -> None:
    few, many = [float(n) for n in range(10, 29)], [float(n) for n in range(10, 30)]

    plot = cumulative([_times(few, 0), _times(many, 1)])

    for drawn in _drawn(plot):
        assert len(drawn.findall("polyline")) == 1
        colours = [dot.get("class") for dot in drawn.findall("circle")]
        assert colours.count("dot k0") == 19
        assert colours.count("dot k1") == 3  # p50, p95 and p99
        texts = [text.text for text in drawn.findall("text")]
        assert {"fastest", "p50", "p95", "p99", "slowest"} <= set(texts)
        assert {"19.5 ms", "28.1 ms", "28.8 ms"} <= set(texts)  # as numpy.percentile has them
    assert "fewer than 20 answers each one is a dot" in plot
    assert "p95" not in cumulative([_times(few)])
    assert "fewer than 100 answers, p99 is next to the slowest" in plot


def test_a_line_goes_through_its_percentiles() -> None:
    times = _times([float(n) for n in range(1, 41)])

    for drawn in _drawn(cumulative([times])):
        line = drawn.find("polyline")
        assert line is not None
        points = set((line.get("points") or "").split())
        dots = [f"{dot.get('cx')},{dot.get('cy')}" for dot in drawn.findall("circle")]
        assert len(dots) == 3
        assert set(dots) <= points


def test_marks_at_the_same_time_are_written_once() -> None:
    values = [10.0] * 25

    for drawn in _drawn(cumulative([_times(values, n) for n in range(5)])):
        at = [float(text.get("y") or 0) for text in drawn.findall("text[@class]")]
        assert 3 <= len(at) <= 6  # to the right and to the left of the dots
    row = TextRow(0, 130, [50, 70])
    assert row.beside(50, 20, "12 ms", "k0").startswith('<text x="42" y="15" text-anchor="end"')
    assert row.beside(70, 20, "13 ms", "k1").startswith('<text x="78" y="34" text-anchor="start"')
    assert row.beside(70, 20, "14 ms", "k2") == ""


def test_labels_of_an_axis_are_apart_in_both_widths() -> None:
    values = [0.0123 * 1.37**n for n in range(40)]

    for drawn in _drawn(cumulative([_times(values)])):
        below = [text for text in drawn.findall("text") if text.get("text-anchor") == "middle"]
        assert len(below) >= 3
        for one, other in pairwise(sorted(below, key=lambda text: float(text.get("x") or 0))):
            room = float(other.get("x") or 0) - float(one.get("x") or 0)
            assert room > (svg.text_width(one.text or "") + svg.text_width(other.text or "")) / 2


def test_many_answers_are_no_larger_than_the_picture() -> None:
    points = [(n / 1000, 1.0) for n in range(500_000)]

    assert curve(points, "k0").count(" ") < 600
    assert curve([], "k0") == '<polyline class="curve k0" points=""/>'
    assert curve([(1, 2)], "k0") == '<polyline class="curve k0" points="1,2"/>'
    assert curve([(1, 2), (1.1, 2)], "k0").endswith('points="1,2 1.1,2"/>')


def test_distances_have_a_limit_and_a_place_for_none_and_for_infinite() -> None:
    values = [(0, "a.jpg", 0.0), (1, "b.jpg", 3e-5), (2, "<c>.jpg", math.inf)]

    plot = distances("Differences", [Distances("x", 1, values)], 3, 1e-4, "tolerance 0.0001")

    for drawn in _drawn(plot):
        texts = [text.text for text in drawn.findall("text")]
        assert {"0", "∞", "1e-5", "1e-4", "tolerance 0.0001"} <= set(texts)
        heights = [float(dot.get("cy") or 0) for dot in drawn.findall("circle")]
        assert heights == sorted(heights, reverse=True)
    assert "x, &lt;c&gt;.jpg: inf" in plot
    assert distances("Differences", [Distances("x", 1, values[:1])], 1, 1e-4, "") == (
        '<p class="soft">Every difference is 0.</p>'
    )


def test_a_series_has_a_line_and_dots() -> None:
    found = [Series("a", 0, [(1, 40.0, "a, 1 client"), (4, 41.0, "a, 4 clients")])]

    for drawn in _drawn(series("Answers", found, "{:g}".format)):
        assert len(drawn.findall("polyline")) == 1
        assert len(drawn.findall("circle")) == 2


def test_times_are_written_in_three_digits() -> None:
    assert [time_text(value) for value in (0.1234, 8.126, 999, 1234)] == [
        "0.123 ms",
        "8.13 ms",
        "999 ms",
        "1.23 s",
    ]


def test_no_answer_has_no_plot() -> None:
    assert "no answer" in cumulative([])
    assert "<svg" not in cumulative([])
