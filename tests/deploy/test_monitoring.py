"""The dashboard and the alerts: Prometheus's own checks, and a server's own metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mlserve.deploy.monitoring.files import ALERTS, DASHBOARD, monitoring_files
from tests.foreign.servers import environment
from tests.harness.collector import receiving
from tests.harness.command import Command
from tests.harness.server import EchoServer, serving

FILES = monitoring_files()
PANELS: list[dict[str, Any]] = json.loads(FILES[DASHBOARD])["panels"]
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(FILES[ALERTS])["groups"]
    for rule in group["rules"]
}
NAME = re.compile(r"\b(?:mlserve|process)_\w+")
ROW = re.compile(r"^\| (`mlserve_.*?) \| (?:counter|gauge|histogram) \| (.*?) ?\|", re.MULTILINE)
SELECTOR = re.compile(r"\b(\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)(?:=|!=|=~|!~)\"")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
SHOWN = re.compile(r"\{\{(?: \$labels\.)?(\w+)(?: \}\}|\}\})")
OF_PROMETHEUS = {"job", "instance", "le"}
HERE = {"job": "vision", "instance": "a:8501"}
MODEL = HERE | {"model": "m", "version": "3"}
Series = dict[str, str]


def series(name: str, values: str, of: dict[str, str] = HERE, **labels: str) -> Series:
    """A series of samples, one a minute, in promtool's words."""
    inside = ",".join(f'{key}="{value}"' for key, value in (of | labels).items())
    return {"series": f"{name}{{{inside}}}", "values": values}


@dataclass(frozen=True)
class Case:
    """Series for which an alert fires after so many minutes, and others for which it never does.

    `labels` are those of the alert, `summary` is what it says.
    """

    fires: list[Series]
    minute: int
    labels: dict[str, str]
    summary: str
    quiet: list[Series] = field(default_factory=list)


def requests(values: str = "0+100x40", **labels: str) -> Series:
    return series("mlserve_requests_total", values, HERE | {"model": "m"}, kind="predict", **labels)


JOB = {"job": "vision"}
CASES = {
    "MlserveLateAnswers": Case(
        [series("mlserve_late_total", "0+6x40", stage="run"), requests()],
        *(15, JOB, "6% of the requests to vision are late"),
        [series("mlserve_late_total", "0+1x40", stage="run"), requests("0+200x40")],
    ),
    "MlserveRefusing": Case(
        [series("mlserve_refused_total", "0+30x40", reason="deadline"), requests()],
        *(20, JOB, "30% of the requests to vision are refused"),
        # A server that is replaced refuses what comes in its last second.
        [series("mlserve_refused_total", "0+30x40", reason="draining"), requests()],
    ),
    "MlserveFailing": Case(
        [requests(code="ok"), requests("0+25x40", code="inference_failed")],
        *(15, JOB | {"model": "m"}, "20% of the requests to m fail"),
        [requests(code="ok"), requests("0+25x40", code="invalid_input")],
    ),
    "MlserveWastedWork": Case(
        [
            series("mlserve_work_total", "0+75x60", outcome="answered"),
            series("mlserve_work_total", "0+20x60", outcome="late"),
            series("mlserve_work_total", "0+5x60", outcome="gone"),
        ],
        *(40, JOB, "25% of the work of vision is for nothing"),
        [
            series("mlserve_work_total", "0+99x60", outcome="answered"),
            series("mlserve_work_total", "0+1x60", outcome="gone"),
        ],
    ),
    "MlserveDown": Case(
        [
            series("up", "1x5 0x20"),
            series("mlserve_build_info", "1x5 _x20", version="1", backend="echo"),
        ],
        *(15, HERE, "a:8501 cannot be scraped"),
        [series("up", "1x5 0x20")],  # another project's server
    ),
    "MlserveNotReady": Case(
        [series("mlserve_ready", "1x3 0x20")],
        *(15, HERE, "a:8501 is not ready"),
        [series("mlserve_ready", "1x3 0 0 0 1x20")],
    ),
    "MlserveVersionNotLoaded": Case(
        [series("mlserve_model_version", "1x20", MODEL, state="END")],
        *(10, MODEL | {"state": "END"}, "version 3 of m could not be loaded"),
        [series("mlserve_model_version", "1x20", MODEL, state="AVAILABLE")],
    ),
    "MlserveAnswersDrifted": Case(
        [series("mlserve_golden_inputs_wrong", "0x3 2x20", MODEL)],
        *(10, MODEL, "m 3 answers 2 golden inputs wrongly"),
        [series("mlserve_golden_inputs_wrong", "0x20", MODEL)],
    ),
    "MlserveSplitStopped": Case(
        [series("mlserve_split_stopped", "0x3 1x20", MODEL)],
        *(10, MODEL, "the split for m 3 was stopped"),
        [series("mlserve_split_stopped", "0x20", MODEL)],
    ),
    "MlserveConfigRefused": Case(
        [series("mlserve_config_in_force", "1x3 0x20")],
        *(15, HERE, "the configuration file of a:8501 is not in force"),
        [series("mlserve_config_in_force", "1x20")],
    ),
    "MlserveProcessesRestart": Case(
        [series("mlserve_process_restarts_total", "0x5 1 2 3 4 5 5x20", MODEL)],
        *(12, MODEL, "processes of m 3 die again and again"),
        [series("mlserve_process_restarts_total", "0x5 1x20", MODEL)],
    ),
    "MlserveBodyMemoryFull": Case(
        [series("mlserve_body_bytes", "95x20"), series("mlserve_body_bytes_limit", "100x20")],
        *(10, HERE, "requests to a:8501 nearly fill the memory for bodies"),
        [series("mlserve_body_bytes", "50x20"), series("mlserve_body_bytes_limit", "100x20")],
    ),
    "MlserveLogLinesLost": Case(
        [series("mlserve_log_lines_lost_total", "0x5 3x20")],
        *(10, HERE, "a:8501 loses lines of its log"),
        [series("mlserve_log_lines_lost_total", "3x20")],
    ),
    "MlserveNotRecording": Case(
        [series("mlserve_recording", "1x3 0x20")],
        *(15, HERE, "a:8501 cannot record requests"),
        [series("mlserve_recording", "1x20")],
    ),
    "MlserveSpansLost": Case(
        [series("mlserve_otlp_spans_lost_total", "0+5x40", reason="queue_full")],
        *(25, HERE, "a:8501 loses spans"),
        [series("mlserve_otlp_spans_lost_total", "7x40", reason="queue_full")],
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[EchoServer]:
    """A server that has everything a metric can be about."""
    folder = tmp_path_factory.mktemp("server")
    with receiving() as receiver:
        flags = ("--otlp", receiver.http, "--processes", "1", "--record", folder / "recording")
        with serving(folder, *map(str, flags)) as found:
            assert found.answers()
            yield found


@pytest.fixture(scope="module")
def page(server: EchoServer) -> str:
    return httpx.get(f"http://{server.rest}/metrics").text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def promtool(*arguments: object, given: str = "") -> str:
    """Run promtool; return what it says. It must find no fault."""
    program = environment("prometheus") / "usr" / "bin" / "promtool"
    done = subprocess.run(
        [program, *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def expressions() -> list[str]:
    """The dashboard's, with Grafana's variables filled in as it does."""
    found = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
    return [
        expr.replace("$__rate_interval", "5m").replace("$job", "a|b").replace("$instance", ".*")
        .replace("$model", "m")
        for expr in found
    ]  # fmt: skip


@pytest.mark.foreign
@pytest.mark.server
def test_prometheus_takes_the_rules(folder: Path) -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", folder / ALERTS)


@pytest.mark.foreign
@pytest.mark.server
def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    found = expressions()
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(found)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(found)} rules found" in promtool("check", "rules", path)
    assert not any("$" in expr for expr in found)


@pytest.mark.foreign
@pytest.mark.server
def test_every_alert_fires_and_does_not(folder: Path) -> None:
    assert CASES.keys() == RULES.keys()
    tests = []
    for alert, case in CASES.items():
        expected = {
            "exp_labels": case.labels | RULES[alert]["labels"],
            "exp_annotations": {
                "summary": case.summary,
                "description": RULES[alert]["annotations"]["description"],
            },
        }
        looks = [(case.fires, case.minute, [expected])]
        looks += [(case.fires, 0, []), (case.quiet, case.minute, [])]
        tests += [
            {
                "interval": "1m",
                "input_series": shown,
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": alerts}
                ],
            }
            for shown, minute, alerts in looks
        ]
        assert case.quiet
    path = folder / "tests.yaml"
    path.write_text(
        yaml.safe_dump(
            {"rule_files": [ALERTS], "evaluation_interval": "1m", "tests": tests},
            sort_keys=False,
        )
    )
    assert "SUCCESS" in promtool("test", "rules", path)


@pytest.mark.foreign
@pytest.mark.server
def test_prometheus_finds_no_fault_in_the_page(page: str) -> None:
    assert promtool("check", "metrics", given=page) == ""


@pytest.mark.server
def test_every_metric_that_is_named_is_one_of_a_server(page: str) -> None:
    known = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    queries = [*expressions(), *(rule["expr"] for rule in RULES.values())]
    variables = json.loads(FILES[DASHBOARD])["templating"]["list"]
    queries += [variable.get("definition", "") for variable in variables]
    named = {name for query in queries for name in NAME.findall(query)}
    assert len(named) > 20
    bare = {re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert bare <= known, bare - known
    document = Path(__file__).parents[2] / "docs" / "observability.md"
    told = set(re.findall(r"`(mlserve_\w+)`", document.read_text()))
    assert {name for name in known if name.startswith("mlserve_otlp")} <= told


@pytest.mark.server
def test_every_label_that_is_named_is_one_of_its_metric(page: str) -> None:
    told = told_labels()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name if family.type == "counter" else family.name
            if name in told and not sample.name.endswith("_created"):
                assert set(sample.labels) - {"le"} == told[name], name
    legends = [
        (target["expr"], target["legendFormat"])
        for panel in PANELS
        for target in panel.get("targets", ())
    ]
    texts = [*legends, *((rule["expr"], str(rule["annotations"])) for rule in RULES.values())]
    for expr, shown in texts:
        names = {re.sub("_(bucket|sum|count)$", "", name) for name in NAME.findall(expr)}
        known = set.union(OF_PROMETHEUS, *(told.get(name, set()) for name in names))
        for metric, inside in SELECTOR.findall(expr):
            of_metric = told.get(re.sub("_(bucket|sum|count)$", "", metric), set())
            assert set(LABEL.findall(inside)) <= of_metric | OF_PROMETHEUS, expr
        kept = [set(re.findall(r"\w+", listed)) for listed in GROUPED.findall(expr)]
        assert all(labels <= known for labels in kept), expr
        left = set.intersection(*kept) if kept else known
        assert set(SHOWN.findall(shown)) <= left, (expr, shown)


def told_labels() -> dict[str, set[str]]:
    """The labels of each metric, as the table of the documentation has them."""
    document = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    found = {}
    for names, labels in ROW.findall(document):
        for name in re.findall(r"`(mlserve_\w+)`", names):
            found[name] = set(re.findall(r"\w+", labels))
    return found


def test_panels_have_places_of_their_own() -> None:
    taken = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


@pytest.mark.server
def test_the_command_writes_them_and_writes_them_again(cli: Command, tmp_path: Path) -> None:
    target = tmp_path / "monitoring"
    for _ in range(2):
        done = cli("deploy", "monitoring", "--output-dir", target)
        assert done.returncode == 0, done.stderr
        assert {path.name: path.read_text() for path in target.iterdir()} == FILES
    assert "rule_files" in done.stderr
    printed = cli("deploy", "monitoring", "--print").stdout
    first, second = yaml.safe_load_all(printed)
    assert first["title"] == "mlserve"
    assert second["groups"]
