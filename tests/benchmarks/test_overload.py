"""The arithmetic of the overload benchmark, its cases, and the part of the page that it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from mlserve.bench.tally import ANSWERED, LATE, LEFT, End, Tally

FOLDER = Path(__file__).parents[2] / "benchmarks" / "overload"


@pytest.fixture(scope="module")
def overload() -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, which import each other by their bare names."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        import cases
        import measured
        import overload_page

        yield SimpleNamespace(cases=cases, measured=measured, page=overload_page)
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def _figures(overload: Any, case: str, ends: list[End], **of_case: float) -> Any:
    tally = Tally(seconds=10.0, server_cpu=8.0, generator_cpu=0.5, ends=ends)
    for end in ends:
        tally.latencies[end.kind].add(end.ended - end.planned)
    capacity = overload.measured.Capacity(1.0, 1.2, 0.5)
    work = {"answered": 9, "gone": 1}
    return overload.measured.Figures(
        overload.cases.CASES[case], capacity, 3.3, tally, work, 0.1, dict(of_case)
    )


def test_only_answers_within_the_measured_time_count(overload: Any) -> None:
    ends = [End(float(n), n + 0.5, ANSWERED, "") for n in range(10)]
    others = [End(9.8, 10.1, ANSWERED, ""), End(2.0, 3.5, LATE, ""), End(1.0, 2.0, LEFT, "")]
    found = _figures(overload, "leave-1s", ends + others)
    assert found.share == pytest.approx(1 / 1.1)
    assert found.steady_share == pytest.approx(1 / 1.1)
    assert found.attainment == pytest.approx(11 / 13)
    assert found.wasted == pytest.approx(0.1)
    assert found.refusal_cpu == pytest.approx((8 - 11 * 0.5) / 2)
    steady, late, wasted = found.misses
    assert steady == "steady_share 0.909, wanted >= 0.95"
    assert (late, wasted) == ("late 1.000, wanted <= 0", "wasted 0.100, wanted <= 0.01")
    assert json.loads(json.dumps(found.to_json()))["ended"]["left"] == 1


def test_an_ideal_server_starts_nothing_that_would_be_late(overload: Any) -> None:
    # Two at once, each for 1 s: of five calls at 0 s four end by 2 s; one that comes at 1 s waits.
    found = overload.measured.ideal_answers([0.0] * 5 + [1.0], 2.0, 2.0, 2)
    assert found == [True] * 4 + [False, True]


def test_every_target_is_a_figure_of_its_case(overload: Any) -> None:
    of_kind = {
        "two": ("slow_share", "fast_share"),
        "shock": ("attainment_after",),
        "bursts": ("attainment_after",),
    }
    assert sum(map(len, overload.cases.GROUPS.values())) == len(overload.cases.CASES)
    for case in overload.cases.CASES.values():
        found = _figures(overload, case.name, [], **dict.fromkeys(of_kind.get(case.kind, ()), 1.0))
        assert all(found.figure(goal.figure) >= 0 for goal in case.targets), case.name


def test_the_page_says_what_was_missed(
    overload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, rows = overload.page, []
    shown = tmp_path / "overload.md"
    shown.write_text(f"before\n\n{page.BEGIN}\nstale\n{page.END}\nafter\n")
    monkeypatch.setattr(page, "PAGE", shown)
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    ends = [End(n / 2, n / 2 + 0.5, ANSWERED if n % 2 else LEFT, "") for n in range(20)]
    for name in ("leave-1s", "told-1s", "stopped"):
        of_case = {"attainment_after": 1.0} if name == "stopped" else {}
        data = _figures(overload, name, ends, **of_case).to_json()
        rows += [data | {"processes": count, "is_other": False} for count in (None, 2)]
        rows.append(data | {"processes": None, "is_other": True, "share": 0.25})
    page.write_page(rows)
    text = shown.read_text()
    assert text.startswith(f"before\n\n{page.BEGIN}\n\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "stale" not in text
    assert (
        "| 3 x, slow, REST | leave after 1 s | **0.818** (>= 0.9) | **0.909** (>= 0.95) "
        "| 0.818 | 0.250 |"
    ) in text
    assert "| 0.8 x, slow, REST, stop | 1 s |  | 1.000 (>= 0.99) | 1.000 | 1.000 |" in text
    drawn = sorted((tmp_path / "images").iterdir())
    assert len(drawn) == 4
    assert all(ET.parse(path).getroot().tag.endswith("svg") for path in drawn)
