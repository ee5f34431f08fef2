"""`mlserve compare` with the test backend: verdicts, targets, refusals, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import psutil
import pytest

from mlserve.errors import ExitCode
from mlserve.launch.records import read_records, select
from mlserve.testing.images import plain
from mlserve.testing.processes import wait_until

pytestmark = pytest.mark.server

EXACT = {"largest": 0.0, "mean": 0.0}


def test_equal_models_are_the_same(cli: Any, export: Any, photos: Path) -> None:
    export(1)
    export(2)

    done = cli("compare", "echo@1", "echo@2", photos)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:6] == ["TARGET", "LABELS", "DECODED", "RESIZED", "SCORES", "END"]
    assert lines[1].split()[:2] == ["echo@1", "reference"]
    assert lines[2].split()[:6] == ["echo@2", "2/2", "0", "0", "0", "0"]
    assert lines[-1] == "same: 2 images, 2 targets, every difference within 0.0001"
    assert done.stderr == ""


def test_another_label_is_named_and_ends_with_its_exit_code(
    cli: Any, export: Any, photos: Path
) -> None:
    export(1)
    export(2, label="donkey")

    done = cli("compare", "echo@1", "echo@2", photos)

    assert done.returncode == ExitCode.DIFFERENT
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split() == ["echo@2", f"{photos}/a.jpg"])
    assert lines[at + 1] == "    'donkey', the reference 'sorrel'"
    assert done.stdout.splitlines()[-1].startswith("different: 2 of 2 images, 2 targets")


def test_json_holds_everything(cli: Any, export: Any, photos: Path) -> None:
    export(1)
    export(2, score=0.2, pixel=130)

    found = cli.json("compare", "echo@1", "echo@2", photos, "--runs", "2", code=8)

    assert (found["same"], found["reference"], found["runs"]) == (False, "echo@1", 2)
    assert [image["file"] for image in found["images"]] == [
        str(photos / name) for name in ("a.jpg", "b.png")
    ]
    reference, other = found["targets"]
    assert other["stages"]["decoded"] == {"largest": 2.0, "mean": 2.0}
    assert other["stages"]["resized"]["largest"] == pytest.approx(2 / 255)
    assert other["stages"]["scores"] == {
        "largest": pytest.approx(0.3),
        "mean": pytest.approx(0.06),
    }
    assert other["score_difference"] == EXACT
    assert other["same_labels"] == 2
    for target in (reference, other):
        assert target["rss_bytes"] > 1e6
        assert target["ready_seconds"] > 0
        times = target["latency_ms"]
        assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    row = found["images"][0]["targets"]["echo@2"]
    assert (row["label"], len(row["milliseconds"])) == ("sorrel", 2)
    assert not row["stages"]["same_top_1"]
    assert not row["stages"]["same_order"]
    whats = {problem["what"] for problem in found["problems"]}
    assert "stage decoded differs by 2" in whats
    assert "stage scores differs by 0.3" in whats


def test_the_tolerance_decides(cli: Any, export: Any, photos: Path) -> None:
    export(1)
    export(2, score=0.50048828125)

    assert not cli.json("compare", "echo@1", "echo@2", photos, code=8)["same"]
    assert cli.json("compare", "echo@1", "echo@2", photos, "--tolerance", "0.001")["same"]


def test_a_file_that_all_refuse_agrees(cli: Any, export: Any, photos: Path) -> None:
    (photos / "c.jpg").write_bytes(b"bad")
    export(1)
    export(2)

    found = cli.json("compare", "echo@1", "echo@2", photos)

    row = found["images"][2]["targets"]["echo@2"]
    assert (row["label"], row["disagreement"]) == (None, None)
    assert row["refusal"] in ("not_an_image", "invalid_input")
    assert row["stages"]["refusals"] == ["not_an_image", "not_an_image"]
    assert row["milliseconds"] == []


def test_a_server_that_does_not_get_ready_is_an_error(cli: Any, export: Any, photos: Path) -> None:
    export(1)
    export(2, fail_run="out of order")

    done = cli("compare", "echo@1", "echo@2", photos)

    assert done.returncode == ExitCode.UNAVAILABLE
    assert "error: compare-2-echo-m stopped while it was starting" in done.stderr
    assert "out of order" in done.stderr
    assert "(all of it: mlserve logs compare-2-echo-m)" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ({"fail_load": "not for me"}, ExitCode.UNAVAILABLE, "error: echo@2: not for me"),
        ({"fail_stages": "a bug"}, ExitCode.INFERENCE, "RuntimeError: a bug"),
    ],
)
def test_stages_that_do_not_run_are_an_error(
    cli: Any, export: Any, photos: Path, config: dict[str, str], code: int, message: str
) -> None:
    export(1)
    export(2, **config)

    done = cli("compare", "echo@1", "echo@2", photos)

    assert done.returncode == code, done.stderr
    assert message in done.stderr


@pytest.fixture
def endpoint(cli: Any, export: Any) -> Iterator[Callable[[str], str]]:
    """The endpoint, by protocol, of a server of version 1 of `m` that the user started."""
    export(1)
    options = ("--version", "1", "--grpc-port", "0", "--rest-port", "0")
    up = cli("up", "--backend", "echo", *options)
    assert up.returncode == 0, up.stderr
    record = select(read_records())
    yield lambda name: record.rest_endpoint if name == "rest" else record.grpc_endpoint
    cli("down", "--all")


def test_endpoints_and_models_are_compared_together(
    cli: Any, export: Any, photos: Path, endpoint: Callable[[str], str]
) -> None:
    (photos / "c.jpg").write_bytes(b"bad")
    export(2, label="donkey")
    targets = [endpoint("grpc"), endpoint("rest"), "echo@1", "echo@2"]

    found = cli.json("compare", *targets, photos, code=8)

    assert [target["name"] for target in found["targets"]] == targets
    assert [target["same_labels"] for target in found["targets"]] == [3, 3, 3, 1]
    assert [bool(target["stages"]) for target in found["targets"]] == [False] * 3 + [True]
    assert [target["rss_bytes"] is None for target in found["targets"]] == [True] * 2 + [False] * 2
    assert {problem["target"] for problem in found["problems"]} == {"echo@2"}
    backends = [record.serving.only.backend for record in read_records()]
    assert backends == ["echo"], "the user's server stays"


def test_endpoints_alone_are_asked_for_their_only_models(
    cli: Any, export: Any, photos: Path, endpoint: Callable[[str], str]
) -> None:
    export(1, "other")
    options = ("--model", "other", "--grpc-port", "0", "--rest-port", "0")
    up = cli("up", "--backend", "echo", *options, "--output", "json")
    both = (endpoint("rest"), json.loads(up.stdout)["grpc"])

    for models in ((), ("--model", "m", "--model", "other")):
        found = cli.json("compare", *both, photos, *models)
        assert found["same"]
        assert [target["model"] for target in found["targets"]] == ["m", "other"]
    one_for_both = cli("compare", *both, photos, "--model", "m")
    assert one_for_both.returncode == ExitCode.USAGE
    assert "does not have what was asked for" in one_for_both.stderr


def test_a_file_name_that_is_no_text_is_printed_as_escapes(
    cli: Any, export: Any, photos: Path, tmp_path: Path
) -> None:
    (photos / os.fsdecode(b"\xff.jpg")).write_bytes(b"an image")
    export(1)
    export(2, label="donkey")

    found = cli.json("compare", "echo@1", "echo@2", photos, "--report", tmp_path / "r.html", code=8)
    shown = cli("compare", "echo@1", "echo@2", photos)

    assert found["images"][2]["file"] == str(photos / "\\udcff.jpg")
    assert "\\udcff.jpg" in shown.stdout
    assert "\\udcff.jpg" in (tmp_path / "r.html").read_text()


def test_random_weights_are_told_of(cli: Any, export: Any, photos: Path) -> None:
    export(1, is_random=True)

    done = cli("compare", "echo", "echo", photos, "--runs", "1")

    assert done.returncode == 0
    assert "warning: echo@1 has random weights: its answers mean nothing" in done.stderr


def _without_markup(page: str) -> str:
    return unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_the_report_needs_nothing_else(cli: Any, export: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "<b>&.jpg").write_bytes(b"an image")
    (photos / "real.png").write_bytes(plain("green", "PNG"))
    (photos / "bad.jpg").write_bytes(b"bad")
    export(1)
    export(2, label="<script>", score=0.25, pixel=130)
    report = tmp_path / "a report.html"
    asked = ("compare", "echo@1", "echo@2", photos)

    done = cli(*asked, "--report", report, env={"MLSERVE_COMPARE_RUNS": "1"})

    assert done.stderr == f"the report is in {report}: open it in a browser\n"
    assert done.returncode == ExitCode.DIFFERENT
    page = report.read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == page.count("</svg>") == 4  # two plots, each in two widths
    for plot in re.findall("<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(plot)
    assert not any(word in page for word in ("http:", "https:", "@import", "url(", "<b>"))
    assert set(re.findall(r'src="([^,"]*),', page)) == {"data:image/jpeg;base64"}
    assert "&lt;b&gt;&amp;.jpg" in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    said = " ".join(_without_markup(page).split())
    assert "echo@2 gives another label than echo@1 to 4 of 4 images: " in said
    assert (
        "The first difference is in decoded , in 4 of 4 images, by up to 2. The manifests" in said
    )
    assert "Both refuse 1 image for the same reason." in said
    assert "runs on" not in said
    command = shlex.join(["mlserve", *map(str, asked), "--runs", "1", "--report", str(report)])
    assert command in said


def test_images_stand_in_the_order_of_what_is_wrong(cli: Any, export: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in (("a.jpg", b"x says ox 0.9"), ("b.jpg", b"bad"), ("c.jpg", b"an image")):
        (folder / name).write_bytes(content)
    export(1)
    export(2, label="donkey")

    cli("compare", "echo@1", "echo@2", folder, "--report", tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text()
    images = re.findall(r'scope="row">(?:<span.*?</span>)?(\w\.jpg)</th>', page)
    assert images == ["c.jpg", "a.jpg", "b.jpg"]  # a gets the label that it says itself
    differing, agreeing = page.split("<details", 1)
    assert "c.jpg</th>" in differing
    assert "2 images without a difference above the tolerance" in agreeing
    assert '<strong class="different">donkey</strong>' in differing


@pytest.mark.parametrize("is_table", [False, True], ids=["images", "rows"])
def test_ctrl_c_tells_what_was_compared(
    cli: Any, photos: Path, tmp_path: Path, echo: Any, is_table: bool
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n")
    asked = (rows, "--signature", "two") if is_table else (photos,)
    report = tmp_path / "report.html"
    options = ("--runs", "1000000", "--output", "json", "--report", report)
    process = cli.start("compare", echo.grpc, echo.endpoint("rest"), *asked, *options)
    before = _answered(echo)
    wait_until(lambda: _answered(echo) > before + 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    found = json.loads(out)
    assert (found["same"], found["is_whole"]) == (True, False)
    assert found["rows"] if is_table else found["images"]
    assert "interrupted: there was more to ask about" in report.read_text()


def _answered(echo: Any) -> int:
    text = httpx.get(f"{echo.endpoint('rest')}/metrics").text
    counts = re.findall(r"^mlserve_requests_total\{.*\} (\d+)", text, re.MULTILINE)
    return sum(map(int, counts))


@pytest.mark.parametrize(
    ("module", "config"),
    [("mlserve.compare.worker", {"load_delay": 60}), ("mlserve.server", {"delay": 60})],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(
    cli: Any,
    export: Any,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    config: dict[str, float],
    number: signal.Signals,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    export(1)
    export(2, **config)
    process = cli.start("compare", "echo@1", "echo@2", photos)
    mine = psutil.Process(process.pid)

    children = wait_until(lambda: found if len(found := _running(mine, module)) == 2 else None)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)

    assert process.returncode == ExitCode.INTERRUPTED, err
    assert (out, err) == ("", "")
    assert not any(child.is_running() for child in children)
    assert list(scratch.iterdir()) == []
    assert read_records() == []


def _running(process: psutil.Process, module: str) -> list[psutil.Process]:
    """The children of a process that run that module."""
    found = []
    for child in process.children():
        with suppress(psutil.Error):  # it is gone by now
            found += [child] if module in child.cmdline() else []
    return found


def test_the_same_target_twice_shows_whether_it_is_steady(
    cli: Any, export: Any, photos: Path
) -> None:
    export(1)

    found = cli.json("compare", "echo", "echo", photos)

    assert [target["name"] for target in found["targets"]] == ["echo@1", "echo@1 (2)"]
