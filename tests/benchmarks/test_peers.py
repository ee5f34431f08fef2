"""The arithmetic of the comparison with other servers, and the part of the page that it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def peers() -> Iterator[SimpleNamespace]:
    """The modules of the comparison, which import each other by their bare names."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        import figures
        import measuring
        import page
        import plots

        yield SimpleNamespace(figures=figures, measuring=measuring, page=page, plots=plots)
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            path = getattr(sys.modules[name], "__file__", None) or ""
            if path.startswith(str(FOLDER)):
                del sys.modules[name]


def results(peers: SimpleNamespace) -> object:
    """Three rounds of mlserve and of two others, with 16 clients; the last one gives no memory."""
    figures = peers.figures

    def rounds(server: str, rates: tuple[float, ...], p99: float, **more: object) -> list[object]:
        return [
            figures.Round(
                "small",
                server,
                "2 workers",
                closed={16: figures.Closed(rate, p99 / 2, p99)},
                **{"ready": 1.0, "pss": 10**8, **more},
            )
            for rate in rates
        ]

    overload = figures.Overload(rate=300.0, capacity=100.0, goodput=95.0)
    return figures.Results(
        machine={"processor": "a CPU"},
        versions={"mlserve": "1", "Triton": "2", "FastAPI": "3", "ONNX Runtime": "4"},
        command="make bench-peers",
        rounds=[
            *rounds("mlserve, REST", (100.0, 90.0, 98.0), 20.0, is_ours=True, overload=overload),
            *rounds("Triton", (50.0, 60.0, 70.0), 30.0),
            *rounds("FastAPI, 1 worker", (120.0, 130.0, 140.0), 10.0, pss=2 * 10**8),
            *rounds("in process", (150.0,), 7.0, ready=None, pss=None),
        ],
    )


def test_figures_are_medians_with_their_spread(peers: SimpleNamespace) -> None:
    ours, *_ = results(peers).servers("small")

    assert ours.name == "mlserve, REST"
    assert ours.rate(16) == peers.figures.Figure(98.0, 90.0, 100.0)
    assert ours.rate(16).spread == pytest.approx(10 / 98)
    assert ours.rate(4) is None
    assert ours.overload.median == pytest.approx(0.95)


def test_mlserve_is_compared_with_the_best_server(peers: SimpleNamespace) -> None:
    """A lower latency is better, and what runs in process is no server."""
    servers = results(peers).servers("small")
    found = {each.measure.name: each for each in peers.figures.comparisons(servers)}

    assert found["16 clients, answers"].theirs[0].name == "FastAPI, 1 worker"
    assert found["16 clients, answers"].ratio == pytest.approx(98 / 130)
    assert found["16 clients, p99"].ratio == pytest.approx(10 / 20)
    assert found["memory"].theirs[0].name == "Triton"
    assert found["memory"].ratio == pytest.approx(1.0)
    assert "in time at 3 times the load" not in found, "no other server was measured"


def test_losses_come_first(peers: SimpleNamespace) -> None:
    written = peers.page.section(results(peers))

    behind, _, rest = written.partition("Measured on:")
    assert "`small`, 16 clients, answers: mlserve, REST 98.0/s, FastAPI, 1 worker 130/s" in behind
    assert "memory" not in behind
    assert "| **130** ± 8% |" in rest
    assert "| in process, 2 workers | 150 |" in rest
    assert "| mlserve, REST | 98.0 ± 5% |" in rest


def test_results_survive_their_file(peers: SimpleNamespace) -> None:
    before = results(peers)
    data = json.loads(json.dumps(before.to_json()))

    assert peers.figures.Results.from_json(data) == before


def test_hand_written_parts_stay(peers: SimpleNamespace) -> None:
    begin, end = peers.page.BEGIN, peers.page.END
    page = f"before\n\n{begin}\nold\n{end}\n\nafter\n"

    once = peers.page.replaced(page, "new\n")
    assert once == f"before\n\n{begin}\n\nnew\n\n{end}\n\nafter\n"
    assert peers.page.replaced(once, "new") == once
    for broken in ("no markers", f"{end}{begin}", page + begin, page + end):
        with pytest.raises(ValueError, match=r"benchmarks\.md"):
            peers.page.replaced(broken, "new")


def test_the_page_has_its_markers(peers: SimpleNamespace) -> None:
    peers.page.replaced(peers.page.PAGE.read_text(), "new")


def test_a_plot_has_a_bar_for_each_server(peers: SimpleNamespace) -> None:
    servers = results(peers).servers("small")
    measures = peers.figures.measures([16])[:2]
    drawn = peers.plots.bars("title", servers, measures, peers.plots.THEMES["dark"])

    assert drawn.count("<rect") == 2 * len(servers)
    assert "FastAPI, 1 worker" in drawn


def test_a_slow_server_gets_time_to_answer_each_client(peers: SimpleNamespace) -> None:
    """The loop begins when what the callers before it left is done."""
    window = peers.measuring.Pace(left=16, rate=20.0).window(64, 1.5)

    assert window.warm_up == pytest.approx((16 + 64) / 20)
    assert window.seconds == pytest.approx(1.2 * 64 / 20)
    assert peers.measuring.Pace(16, 1000.0).window(64, 1.5).seconds == 1.5
