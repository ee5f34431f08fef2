"""`mlserve gate`: real processes that ask a real server, are killed, and find a full disk."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.gate_verify import usual_audit
from mlserve.cli.server_choice import FoundServer, ServerChoice
from mlserve.gate.audit_file import AuditFile, lines_in
from mlserve.gate.verify import verify
from tests.harness.echo import manifest
from tests.harness.gate import ACCEPT, decisions, started, to


def test_a_part_is_accepted_rejected_or_left_to_a_human(
    gate: Any, cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path
) -> None:
    good, unsure, other = part("ok", 0.95), part("ok", 0.55), part("scratch", 0.99)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"bad")
    for file, code, line in (
        (good, 0, "accept\tok has 0.9500"),
        (unsure, 11, "ask\tok has 0.5500, below 0.9"),
        (other, 10, "reject\tthe label is scratch, not ok"),
    ):
        found = gate(file, *ACCEPT)
        assert (found.returncode, found.stdout, found.stderr) == (code, f"{line}\n", "")
    lines = "".join(f"{file}\n" for file in (bad, tmp_path / "none.jpg", unsure))
    found = started(cli, "--stdin", *ACCEPT, *to(server, audit), "--on-unsure", "reject")
    assert found.communicate(lines)[0].count("reject\t") == 3
    labels = ("--accept", "ok", "--accept", "scratch", "--timeout", "20")
    found = started(cli, "--stdin", *labels, *to(server, audit), "--on-error", "ask")
    assert [line[:3] for line in found.communicate(lines)[0].splitlines()] == ["ask", "ask", "acc"]
    assert found.returncode == 11

    lines = decisions(audit)
    assert [line["decision"] for line in lines[:3]] == ["accept", "ask", "reject"]
    assert [line["reason"] for line in lines[:5]] == [
        *("label", "low_score", "other_label", "error", "error")
    ]
    first = lines[0]
    assert first["image"]["name"] == str(good)
    assert first["image"]["bytes"] == good.stat().st_size
    assert first["thresholds"] == {"accept": ["ok"], "min_score": 0.9}
    assert (first["label"], first["model"], first["version"]) == ("ok", "inception_v3", 1)
    assert first["scores"][0] == ["ok", pytest.approx(0.95)]
    assert first["artifact"].startswith("sha256:")
    assert first["timings_ms"]["run"] >= 0
    assert first["request_id"]
    assert lines[4]["image"] == {
        "name": str(tmp_path / "none.jpg"),
        "sha256": None,
        "bytes": None,
    }
    # The digest is that of the bytes that were asked about.
    assert lines[3]["image"]["sha256"].endswith(
        subprocess.run(["sha256sum", str(bad)], capture_output=True, check=True)
        .stdout[:64]
        .decode()
    )
    assert lines[3]["error"]["kind"] == "invalid_input"


def test_no_answer_in_time_and_no_server(
    cli: Any, start_echo: Any, part: Any, audit: Path, tmp_path: Path
) -> None:
    slow = start_echo(delay=30)
    lines = f"{part()}\n{part()}\n"

    def run(*more: str) -> tuple[int, list[str]]:
        at = ("--stdin", "--accept", "ok", "--audit", str(audit))
        process = started(cli, *at, *more)
        stdout, stderr = process.communicate(lines, timeout=40)
        assert not stderr
        return process.returncode, [line.split("\t")[0] for line in stdout.splitlines()]

    at = ("--endpoint", slow.grpc, "--timeout", "0.7")
    assert run(*at) == (10, ["reject"] * 2)
    assert run(*at, "--on-timeout", "accept") == (0, ["accept"] * 2)
    closed = ("--endpoint", "127.0.0.1:1", "--max-attempts", "1", "--timeout", "20")
    assert run(*closed, "--on-error", "ask") == (11, ["ask"] * 2)
    assert [line["reason"] for line in decisions(audit)] == [*["timeout"] * 4, *["error"] * 2]
    assert decisions(audit)[0]["error"]["kind"] == "deadline_exceeded"


def test_lines_are_answered_one_by_one(cli: Any, server: Any, part: Any, audit: Path) -> None:
    process = started(cli, "--stdin", *ACCEPT, *to(server, audit))
    assert process.stdin is not None
    assert process.stdout is not None
    for label, word in (("ok", "accept"), ("hole", "reject"), ("ok", "accept")):
        file = part(label)
        process.stdin.write(f"{file}\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(f"{word}\t{file}\t")
        assert decisions(audit)[-1]["image"]["name"] == str(file)
    # An empty line is a part, too, and so is the last one.
    rest, _ = process.communicate("\n/no/such/file", timeout=20)
    assert [line.split("\t")[0] for line in rest.splitlines()] == ["reject", "reject"]
    assert process.returncode == 10


def test_as_json(gate: Any, part: Any) -> None:
    shown = gate(part(), *ACCEPT, "--output", "json").json()
    assert (shown["decision"], shown["seq"], len(shown["sha256"])) == ("accept", 1, 64)
    empty = gate("--stdin", *ACCEPT, "--output", "json")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "nothing was decided" in json.loads(empty.stderr)["error"]["message"]


# No room for the audit


@pytest.fixture(params=["tmpfs", "limit"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A folder with room for a few lines, and what a process needs to find no more."""
    if request.param == "limit":
        yield tmp_path, (8000, 8000)
        return
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield small, None
    subprocess.run(["umount", str(small)], check=True)


def test_a_full_disk_is_a_stop(cli: Any, server: Any, part: Any, full: tuple[Path, Any]) -> None:
    folder, limit = full
    audit = folder / "audit.jsonl"
    paths = "".join(f"{part()}\n" for _ in range(30))
    process = started(cli, "--stdin", *ACCEPT, *to(server, audit), file_limit=limit)
    stdout, stderr = process.communicate(paths, timeout=60)
    assert process.returncode == 12, stderr
    shown = stdout.splitlines()
    assert 0 < len(shown) < 30
    assert f"the audit file {audit} cannot be written" in stderr
    assert "nothing is decided without a line in it" in stderr
    # Each decision that was shown has its line, and nothing is left of the one that was not.
    assert len(decisions(audit)) == len(shown)
    assert verify([audit]).torn is None
    found = started(cli, str(part()), *ACCEPT, *to(server, audit), file_limit=limit)
    assert found.communicate(timeout=40)[0] == ""
    assert found.returncode == 12


def test_an_audit_that_was_tampered_with_is_a_stop(
    gate: Any, cli: Any, part: Any, audit: Path
) -> None:
    file = part()
    assert gate(file, *ACCEPT).returncode == 0
    content = audit.read_bytes()
    sound = cli("gate", "verify", audit, "--output", "json").json()
    assert sound["decisions"] == {"accept": 1}
    audit.write_bytes(content.replace(b'"accept"', b'"reject"', 1))
    found = gate(file, *ACCEPT)
    assert (found.returncode, found.stdout) == (12, "")
    assert "its last line: it was changed" in found.stderr
    assert "mlserve gate verify" in found.stderr
    checked = cli("gate", "verify", audit, "--head", sound["head"]["sha256"])
    assert checked.returncode == 8
    assert checked.stdout.startswith(f"{audit}:1: it was changed\nthe line ")


# The lamp


def test_the_lamp_is_told_after_the_line(gate: Any, part: Any, audit: Path, tmp_path: Path) -> None:
    controller, device = os.openpty()
    told = tmp_path / "told"
    script = tmp_path / "lamp.sh"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$1 $MLSERVE_GATE_REASON $MLSERVE_GATE_LABEL $MLSERVE_GATE_FILE" >> {told}\n'
        f"wc -l < {audit} >> {told}\n"
        "echo noise\n"
    )
    script.chmod(0o755)
    lamps = ("--serial", os.ttyname(device), "--baud", "115200", "--exec", script)
    good, bad = part(), part("hole")
    found = gate(good, *ACCEPT, *lamps)
    assert (found.returncode, found.stdout) == (0, "accept\tok has 0.9500\n")
    assert gate(bad, *ACCEPT, *lamps).returncode == 10
    assert told.read_text() == f"accept label ok {good}\n1\nreject other_label hole {bad}\n2\n"
    assert os.read(controller, 100) == b"ACCEPT\nREJECT\n"
    os.close(controller)
    os.close(device)


def test_a_lamp_that_fails_is_an_error(gate: Any, part: Any, audit: Path) -> None:
    file = part()
    found = gate(file, *ACCEPT, "--exec", "false", "--on-error", "ask")
    assert found.returncode == 11
    assert found.stdout == "ask\tfalse ended with 1; before that: ok has 0.9500\n"
    # It never makes a decision milder.
    hole = part("hole")
    assert gate(hole, *ACCEPT, "--exec", "false", "--on-error", "accept").returncode == 10
    assert verify([audit]).is_sound
    kinds = [line.data["kind"] for line in lines_in(audit)]
    assert kinds == ["decision", "lamp_failed"] * 2


# Wrong calls, and what is never accepted


def test_wrong_calls(part: Any, home: Path, tmp_path: Path) -> None:
    file = str(part())
    for args, message in (
        ((), "needs FILE"),
        ((file, "--stdin", "--accept", "ok"), "do not go together"),
        ((file,), "no label is to be accepted"),
        ((file, "--accept", "ok", "--min-score", "nan"), "--min-score nan"),
        ((file, "--accept", "ok", "--on-unsure", "accept"), "--on-unsure accept"),
        ((file, "--accept", "ok", "--serial", file), "not a serial port"),
        ((file, "--calibration", file), "not a calibration"),
        (("calibrate", str(tmp_path), "--risk", "2", "--accept", "ok"), "--risk 2"),
        (("verify", str(tmp_path / "none")), "cannot be read"),
    ):
        found = CliRunner().invoke(app, ["gate", *args, "--output", "json"], catch_exceptions=False)
        assert (found.exit_code, found.stdout) == (2, ""), args
        assert message in json.loads(found.stderr)["error"]["message"]
    assert not home.exists()  # no audit was begun


def test_random_weights_are_never_accepted(
    cli: Any, start_echo: Any, part: Any, audit: Path
) -> None:
    server = start_echo(manifest=manifest(has_random_weights=True))
    found = cli("gate", part(), *ACCEPT, *to(server, audit), "--on-error", "accept")
    assert found.returncode == 11
    assert "random weights" in found.stdout


def test_random_weights_of_a_running_server_are_never_accepted(
    part: Any, audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third-party server's answers do not tell of them; the record of `mlserve up` does."""
    found = FoundServer("127.0.0.1:1", None, {}, has_random_weights=True)
    monkeypatch.setattr(ServerChoice, "find", lambda *_: found)
    args = ("gate", str(part()), *ACCEPT, "--audit", str(audit), "--on-error", "accept")
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 11
    assert result.stdout.startswith("ask\tthe model has random weights")


def test_the_usual_audit_is_verified_without_its_name(home: Path) -> None:
    audit = AuditFile(usual_audit())
    audit.append({"kind": "decision", "decision": "accept"})
    audit.close()
    found = CliRunner().invoke(app, ["gate", "verify"], catch_exceptions=False)
    assert (found.exit_code, found.stdout[:35]) == (0, "nothing is wrong: 1 line (1 accept)")
