"""`mlserve bench` as a user calls it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from typer.testing import CliRunner

from mlserve.bench.find_rate import FoundRate
from mlserve.bench.findings import no_answer, sentence
from mlserve.bench.load import ClosedLoop, Window
from mlserve.bench.measurement import Measurement
from mlserve.bench.result import BenchResult
from mlserve.bench.slo import Slo
from mlserve.bench.tally import Tally
from mlserve.cli.app import app
from mlserve.testing.processes import wait_until
from tests.harness.command import Command
from tests.harness.server import EchoServer

if TYPE_CHECKING:
    from mlserve.bench.target import Target

QUICK = ("--duration", "0.4", "--warm-up", "0.1", "--repeat", "2")
PERCENTILES = {"p50", "p90", "p95", "p99", "p99.9", "max"}


@pytest.mark.server
def test_two_targets_are_measured_in_turn(
    cli: Command, echo: EchoServer, photo: Path, tmp_path: Path
) -> None:
    report = tmp_path / "bench.html"
    ends = [part for name in ("grpc", "rest") for part in ("--endpoint", echo.endpoint(name))]
    loads = ("--concurrency", "1,2", "--rate", "20", "--slo", "p50=20s", "--report", report)
    found: Any = cli.json("bench", photo, *ends, *loads, *QUICK)
    assert [(m["target"], m["load"].get("concurrency")) for m in found["measurements"]] == [
        (target["name"], clients) for clients in (1, 2, None) for target in found["targets"]
    ]
    assert {target["protocol"] for target in found["targets"]} == {"grpc", "rest"}
    assert {target["api"] for target in found["targets"]} == {"tfs"}
    for measured in found["measurements"]:
        assert measured["requests"] == measured["in_time"] > 0
        assert measured["latency_ms"].keys() == PERCENTILES
        assert sum(measured["histogram"]["count"]) == measured["in_time"]
        assert list(measured["stages_ms"]) == ["queue", "decode", "run", "encode"]
        assert len(measured["goodputs"]) == 2
        assert measured["server"]["pss_bytes"] > 10**6
        assert measured["slo"]["is_held"]
    assert {row["to"] for row in found["ratios"]} == {found["targets"][0]["name"]}
    assert (found["is_whole"], found["format"]) == (True, 1)
    page = report.read_text()
    assert page.count("<svg") == 2 * 5  # three loads, and two figures over the clients
    assert not re.search(r"src=|href=\"[^#]|https?://(?!127\.0\.0\.1)|@import|url\(", page)
    assert "<li>Every load holds p50=20000ms.</li>" in page
    assert "<li>At 1 client: " in page
    assert "mlserve bench " in page


@pytest.mark.server
def test_callers_that_leave_are_counted_apart(cli: Command, echo: EchoServer) -> None:
    slow = ("--input", "seconds=0.3", "--signature", "slow", "--endpoint", echo.endpoint("rest"))
    load = ("--rate", "10", "--leave-after", "0.1,5", "--duration", "1", "--repeat", "1")
    found: Any = cli.json("bench", *slow, *load)
    (measured,) = found["measurements"]
    assert found["leave_after"] == [0.1, 5.0]
    assert measured["left"] > 0
    assert measured["left"] + measured["in_time"] == measured["requests"]
    outcome = cli("bench", *slow, *load)
    assert "given up by their callers" in outcome.stdout
    assert "tell no deadline" in " ".join(outcome.stdout.split())


@pytest.mark.server
def test_text_says_what_was_missed_and_the_exit_code_that_a_level_is_not_held(
    cli: Command, echo: EchoServer
) -> None:
    slow = ("--input", "seconds=0.2", "--signature", "slow", "--endpoint", echo.endpoint("grpc"))
    outcome = cli("bench", *slow, "--concurrency", "1", *QUICK, "--slo", "p50=10ms")
    assert outcome.returncode == 8
    assert "p50=10ms: not held (0.00% of the requests" in outcome.stdout
    assert "1 client" in outcome.stdout
    assert "in the server, p50 ms: queue" in outcome.stdout


@pytest.mark.server
def test_a_load_without_one_answer_is_no_success(cli: Command, echo: EchoServer) -> None:
    """Though no service level is given: a script must not take it for a measured server."""
    slow = ("--input", "seconds=0.3", "--signature", "slow", "--endpoint", echo.endpoint("grpc"))
    load = (*slow, "--concurrency", "1", "--timeout", "0.1", *QUICK)
    outcome = cli("bench", *load)
    assert outcome.returncode == 8
    assert "1 client" in outcome.stdout
    told = " ".join(outcome.stderr.split())
    assert re.search(
        r"no request was answered: \S+ at 1 client \(of \d+ requests \d+ without", told
    )
    outcome = cli("bench", *load, "--output", "json")
    assert outcome.returncode == 8
    assert json.loads(outcome.stdout)["measurements"][0]["in_time"] == 0


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"not_connected": 9, "overloaded": 1}, "of 10 requests 1 refused (overloaded), 9 failed"),
        ({}, "none ended in the measured time; measure longer (--duration)"),
        ({"late": 1, "not_connected": 9}, ""),
    ],
)
def test_it_is_said_what_became_of_requests_without_an_answer(
    kinds: dict[str, int], said: str
) -> None:
    tally = Tally(seconds=1.0)
    for kind, count in kinds.items():
        for _ in range(count):
            tally.latencies[kind].add(0.1)
    target = cast("Target", SimpleNamespace(name="here"))
    window = Window(1.0, 0.0, 1.0)
    measured = [Measurement(target, ClosedLoop(clients), window, [tally]) for clients in (1, 2)]
    told = no_answer(BenchResult([target], window, 1, measured))
    assert said in told
    assert bool(told) == ("here at 1 client, nor in 1 further load" in told) == bool(said)


@pytest.mark.server
def test_rows_are_asked_about_in_open_inference(
    cli: Command, echo: EchoServer, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n5,6\n")
    to = ("--endpoint", echo.endpoint("rest"), "--api", "oip", "--signature", "two")
    found: Any = cli.json("bench", rows, *to, *QUICK, "--concurrency", "1", "--batch", "2")
    assert found["targets"][0]["api"] == "oip"
    assert found["targets"][0]["requests"] == 1  # the last row is not a whole batch
    assert found["measurements"][0]["in_time"] > 0


@pytest.mark.server
def test_a_slow_server_is_asked_about_one_row_before_the_load(
    cli: Command, echo: EchoServer, tmp_path: Path
) -> None:
    """All 200 would take a minute, and all servers together have half of one."""
    rows = tmp_path / "rows.csv"
    rows.write_text("seconds\n" + "0.3\n" * 200)
    to = ("--endpoint", echo.endpoint("grpc"), "--signature", "slow")
    before = _requests(echo)
    found: Any = cli.json("bench", rows, *to, *QUICK, "--concurrency", "1", "--repeat", "1")
    assert found["targets"][0]["requests"] == 200
    assert _requests(echo) - before < 10


@pytest.mark.server
def test_the_same_server_three_times_has_three_names(
    cli: Command, echo: EchoServer, photo: Path, tmp_path: Path
) -> None:
    report = tmp_path / "bench.html"
    to = ("--endpoint", echo.endpoint("grpc")) * 3
    found: Any = cli.json("bench", photo, *to, *QUICK, "--concurrency", "1", "--report", report)
    name = found["targets"][0]["name"]
    names = [name, f"{name} (2)", f"{name} (3)"]
    assert [target["name"] for target in found["targets"]] == names
    assert [row["target"] for row in found["ratios"]] == names[1:]
    assert f"{name} (3)" in report.read_text()


@pytest.mark.server
def test_a_sweep_and_bursts(cli: Command, echo: EchoServer) -> None:
    """Around what the closed loop reaches, with arrivals of another spread."""
    slow = ("--input", "seconds=0.02", "--signature", "slow", "--endpoint", echo.endpoint("grpc"))
    short = ("--duration", "0.3", "--warm-up", "0", "--repeat", "1")
    found: Any = cli.json("bench", *slow, "--sweep", "--arrivals", "gamma:2", *short)
    loads = [measured["load"] for measured in found["measurements"]]
    assert {load["arrivals"] for load in loads} == {"gamma:2"}
    rates = [load["rate"] for load in loads]
    assert rates == sorted(rates)
    assert rates[-1] / rates[0] == pytest.approx(6, rel=0.01)


@pytest.mark.server
def test_ctrl_c_prints_what_was_measured(cli: Command, echo: EchoServer, photo: Path) -> None:
    to = ("--endpoint", echo.endpoint("grpc"), "--concurrency", "1", "--warm-up", "0")
    before = _requests(echo)
    process = cli.start("bench", photo, *to, "--duration", "60", "--output", "json")
    wait_until(lambda: _requests(echo) > before + 30)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert '"is_whole": false' in out
    assert '"in_time"' in out


@pytest.mark.server
def test_ctrl_c_while_it_warms_up_has_no_figure(
    cli: Command, echo: EchoServer, photo: Path, tmp_path: Path
) -> None:
    """None: it said that nothing was answered, and that a level was not held."""
    report = tmp_path / "bench.html"
    to = ("--endpoint", echo.endpoint("grpc"), "--warm-up", "60", "--report", report)
    load = ("--concurrency", "1", "--slo", "p99=9s", "--output", "json")
    before = _requests(echo)
    process = cli.start("bench", photo, *to, *load)
    wait_until(lambda: _requests(echo) > before + 30)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out)
    assert (found["is_whole"], found["measurements"]) == (False, [])
    assert "The run was interrupted" in report.read_text()


def test_figures_are_of_the_repeats_that_were_measured() -> None:
    whole, cut = Tally(seconds=2.0), Tally(is_whole=False)
    for _ in range(10):
        whole.latencies[""].add(0.1)
    target = cast("Target", SimpleNamespace(name="here"))
    measured = Measurement(target, ClosedLoop(1), Window(1.0, 0.0, 1.0), [whole, cut])
    assert (measured.goodput, measured.has_begun, measured.is_whole) == (5.0, True, False)
    none = FoundRate(target, Slo.parse("p99=1s"), is_whole=False)
    assert sentence(none) == "here: no rate was found before the interrupt"


def _requests(server: EchoServer) -> int:
    text = httpx.get(f"{server.endpoint('rest')}/metrics").text
    counts = re.findall(r'^mlserve_requests_total\{.*kind="predict".*\} (\d+)', text, re.MULTILINE)
    return sum(map(int, counts))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "needs something to ask about"),
        (("x.jpg", "--input", "x=1"), "each is a question of its own"),
        (("-",), "standard input"),
        (("x.jpg", "--concurrency", "0"), "--concurrency '0'"),
        (("x.jpg", "--concurrency", "1.5"), "not whole"),
        (("x.jpg", "--concurrency", "1,1e9"), "--concurrency '1e9' is not a number above 0 and up"),
        (("x.jpg", "--rate", "nan"), "--rate 'nan' is not a number above 0 and up to 1,000,000"),
        (("x.jpg", "--processes", "100000"), "'100000' is not a valid value of --processes"),
        (("x.jpg", "--rate", "ten"), "--rate 'ten'"),
        (("x.jpg", "--arrivals", "gauss"), "--arrivals 'gauss'"),
        (("x.jpg", "--arrivals", "gamma:2"), "--arrivals is for an open loop"),
        (("x.jpg", "--concurrency", "4", "--seed", "3"), "--seed is for an open loop"),
        (("x.jpg", "--batch", "4"), "--batch 4 is for the rows of a table"),
        (("--input", "x=1", "--batch", "4"), "--batch 4 is for the rows of a table"),
        (("x.jpg", "--duration", "0"), "--duration 0"),
        (("x.jpg", "--timeout", "nan"), "--timeout nan"),
        (("x.jpg", "--leave-after", "soon"), "--leave-after 'soon'"),
        (("x.jpg", "--timeout", "1", "--leave-after", "1"), "--timeout is told to the server"),
        (("x.jpg", "--slo", "fast"), "--slo 'fast'"),
        (("x.jpg", "--find-rate"), "--find-rate needs"),
        (("x.jpg", "--report", "no/such/folder.html"), "cannot be written"),
        (("no-such.jpg",), "no-such.jpg cannot be read"),
        (("no-such.csv",), "no-such.csv cannot be read"),
    ],
)
def test_a_wrong_call_is_told(args: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, ["bench", *args], catch_exceptions=False)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "hint: " in result.stderr
