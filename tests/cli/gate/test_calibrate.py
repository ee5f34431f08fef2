"""`mlserve gate calibrate`, and the alarm: thresholds of a holdout, which hold for one version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.gate.verify import verify
from mlserve.testing.processes import wait_until
from tests.harness.echo import manifest
from tests.harness.gate import decisions, started, to


@pytest.fixture
def holdout(part: Any, tmp_path: Path) -> Path:
    """20 good parts, and 40 bad ones, of which some look good."""
    folder = tmp_path / "holdout"
    for number in range(20):
        part("ok", 0.80 + number / 100, into=folder / "ok")
    for number in range(40):
        label = "ok" if number < 10 else "hole"
        part(label, 0.5 + number * 0.05, into=folder / "hole")
    return folder


def test_a_calibration_holds_for_one_version(
    cli: Any, start_echo: Any, part: Any, holdout: Path, audit: Path, tmp_path: Path
) -> None:
    server = start_echo("--poll-seconds", "0.05", manifest=manifest())
    at = ("--endpoint", server.grpc)
    saved = tmp_path / "line.json"
    few = cli("gate", "calibrate", holdout, "--accept", "ok", "--risk", "0.01", *at)
    assert few.returncode == 2
    assert "the holdout has 40 bad images, and a risk of 0.01 needs 99" in few.stderr
    assert "add 59 more" in few.stderr
    args = ("gate", "calibrate", holdout, "--accept", "ok", "--risk", "0.05", "--save", saved)
    found = cli(*args, *at)
    assert found.returncode == 0, found.stderr
    # floor(0.05 * 41) - 1 is 1: one bad part may be accepted, that with 0.95.
    assert found.stdout.startswith("accept above 0.89999")
    assert "of bad parts, at most 0.05 are accepted falsely, on average" in found.stdout
    data = json.loads(saved.read_text())
    assert (data["false_accepts"], data["counted"], data["good_accepted"]) == (1, 40, 0.45)

    gated = ("--calibration", saved, "--timeout", "20", *at, "--audit", audit)
    found = cli("gate", part("ok", 0.89), *gated)
    assert (found.returncode, found.stdout[:3]) == (11, "ask")
    assert decisions(audit)[0]["thresholds"]["calibrated"]["risk"] == 0.05
    stream = started(cli, "--stdin", *gated, "--on-error", "accept")
    assert stream.stdin is not None
    assert stream.stdout is not None

    def answer() -> str:
        stream.stdin.write(f"{part('ok', 0.99)}\n")  # type: ignore[union-attr]
        stream.stdin.flush()  # type: ignore[union-attr]
        return stream.stdout.readline()  # type: ignore[union-attr]

    assert answer().startswith("accept\t")
    model = Path(server.log_path).with_name("inception_v3")
    from tests.harness.echo import put_version

    put_version(model / "2", manifest=manifest())
    wait_until(lambda: server.state(2) == "AVAILABLE" and server.state(1) != "AVAILABLE")
    # Another version: never accepted, whatever --on-error says.
    told = answer()
    assert told.startswith("ask\t")
    assert "the calibration holds for inception_v3 version 1 (sha256:" in told
    stream.communicate(timeout=60)
    assert stream.returncode == 11
    found = cli("gate", part(), *gated)
    assert (found.returncode, found.stdout) == (2, "")
    assert "the calibration holds for inception_v3 version 1" in found.stderr


def test_scores_that_change_are_an_alarm(
    cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path
) -> None:
    def run(score: float, parts: int, *more: str) -> tuple[int, list[str], str]:
        # In an order without a trend.
        files = [part("ok", score + number * 37 % 61 / 5000) for number in range(parts)]
        paths = "".join(f"{file}\n" for file in files)
        at = ("--stdin", "--accept", "ok", "--timeout", "20", *to(server, audit))
        process = started(cli, *at, *more)
        stdout, stderr = process.communicate(paths, timeout=60)
        return process.returncode, [line.split("\t")[0] for line in stdout.splitlines()], stderr

    code, told, _ = run(0.95, 60, "--alarm", "ask")
    assert (code, told) == (0, ["accept"] * 60)
    # The state is in a file, and all of it in the audit too.
    state = audit.with_name("audit.jsonl.alarm")
    before = json.loads(state.read_text())
    state.unlink()
    code, told, _ = run(0.6, 60, "--alarm", "ask")
    assert code == 11
    assert told[0] == "accept"
    assert told[-1] == "ask"
    lines = decisions(audit)
    assert before["seq"] == 60
    assert lines[60]["alarm"]["seen"] == 61
    first = told.index("ask")
    assert lines[60 + first]["reason"] == "alarm"
    assert [line["alarm"]["is_alarm"] for line in lines[60:]] == [
        number >= first for number in range(60)
    ]
    # It lasts, stops if that is wanted, and can be reset.
    code, told, stderr = run(0.95, 1, "--alarm", "stop")
    assert (code, told) == (13, [])
    assert "the scores no longer come as they did" in stderr
    code, told, _ = run(0.95, 1, "--alarm", "stop", "--reset-alarm")
    assert (code, told) == (0, ["accept"])
    assert verify([audit]).is_sound


def test_where_a_calibration_cannot_be_saved_is_told_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    words = ["gate", "calibrate", str(tmp_path), "--accept", "ok", "--risk", "0.1", "--save"]
    for place in (tmp_path, tmp_path / "nowhere" / "calibration.json"):
        done = CliRunner().invoke(app, [*words, str(place)])
        assert done.exit_code == 2
        assert "the calibration cannot be saved in" in done.stderr
