"""`mlserve gate`: real processes that ask a real server, are killed, and find a full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlserve.cli.app import app
from mlserve.cli.gate_verify import usual_audit
from mlserve.cli.server_choice import FoundServer, ServerChoice
from mlserve.errors import UsageError
from mlserve.gate.audit_file import AuditFile, family, lines_in
from mlserve.gate.verify import verify
from mlserve.testing.processes import wait_until
from tests.harness.echo import PHOTO, manifest

ACCEPT = ("--accept", "ok", "--min-score", "0.9", "--timeout", "20")


@pytest.fixture(scope="module")
def server(start_echo: Callable[..., Any]) -> Any:
    """It gives each image the label and score that the image says itself."""
    return start_echo(manifest=manifest())


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """`part("ok", 0.95)` writes an image that gets this answer."""
    numbers = count(1)

    def write(label: str = "ok", score: float = 0.95, into: Path = tmp_path) -> Path:
        into.mkdir(exist_ok=True, parents=True)
        path = into / f"part-{next(numbers):04}.jpg"
        whole = path.with_suffix(".tmp")
        whole.write_bytes(PHOTO + f" {path.name} says {label} {score:.4f}".encode())
        return whole.rename(path)

    return write


@pytest.fixture
def gate(cli: Any, server: Any, audit: Path) -> Callable[..., Any]:
    """Runs the command to its end."""

    def run(*args: object, **options: Any) -> Any:
        return cli("gate", *args, *to(server, audit), **options)

    return run


def to(server: Any, audit: Path) -> tuple[str, ...]:
    return ("--endpoint", server.grpc, "--audit", str(audit))


def started(cli: Any, *args: object, **options: Any) -> subprocess.Popen[str]:
    return cli.start("gate", *args, stdin=subprocess.PIPE, **options)  # type: ignore[no-any-return]


def decisions(audit: Path) -> list[dict[str, Any]]:
    """The decisions of all files, which are sound; read again if a gate renames one meanwhile."""
    while files := family(audit):
        try:
            found = verify(files)
            lines = [dict(line.data) for file in files for line in lines_in(file)]
        except (UsageError, FileNotFoundError):
            continue
        if family(audit) == files:
            assert found.is_sound, found.faults
            return [line for line in lines if line["kind"] == "decision"]
    return []


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


# A camera's folder

KILLER = """
import os, runpy, signal, sys
point, nth = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
import mlserve.cli.gate as command
from mlserve.gate import audit_file

seen = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def write(self, data, real=audit_file.AuditFile._write):
    global seen
    seen += 1
    is_now = seen == nth
    if is_now and point == "before":
        die()
    if is_now and point == "torn":
        os.write(self._fd, data[: len(data) // 2])
        die()
    real(self, data)
    if is_now and point == "written":
        die()

def show(self, decided, gate, real=command.Shown.__call__):
    real(self, decided, gate)
    if seen >= nth and point == "shown":
        die()

def opened(path, real=audit_file._opened):
    if point == "renamed" and audit_file.full_files(path) and not path.exists():
        die()
    return real(path)

audit_file.AuditFile._write = write
audit_file._opened = opened
command.Shown.__call__ = show
runpy.run_module("mlserve", run_name="__main__", alter_sys=True)
"""


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Stop a gate; return the names of the files that it has shown decisions for."""
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return names(stdout)


def names(stdout: str) -> list[str]:
    return [Path(line.split("\t")[1]).name for line in stdout.splitlines()]


@pytest.mark.parametrize("point", ["before", "torn", "written", "shown", "renamed"])
def test_killed_at_any_point_each_file_has_one_line(
    cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path, point: str
) -> None:
    camera = tmp_path / "camera"
    files = [part("ok" if number % 2 else "hole", into=camera).name for number in range(6)]
    small = ("--rotate-bytes", "2000") if point == "renamed" else ()
    args = ["gate", "--watch", str(camera), *ACCEPT, *to(server, audit), *small]
    killed = cli._popen([sys.executable, "-c", KILLER, point, "3", *args])
    stdout, stderr = killed.communicate(timeout=40)
    assert killed.returncode == -signal.SIGKILL, stderr
    shown = names(stdout)
    with_line = [Path(line["image"]["name"]).name for line in decisions(audit)]
    # No decision without its line.
    assert shown == with_line[: len(shown)] == files[: len(shown)]
    assert (verify(family(audit)).torn is not None) is (point == "torn")

    again = cli.start(*args)
    files.append(part("ok", into=camera).name)
    wait_until(lambda: len(decisions(audit)) == 7)
    shown += ended(again)
    # No line twice, and in order; what had its line is not told again.
    assert [Path(line["image"]["name"]).name for line in decisions(audit)] == files
    assert shown == [name for name in files if name in shown]
    assert len(shown) >= 6
    assert verify(family(audit)).mended == (1 if point == "torn" else 0)


def test_the_folder_of_a_camera(
    cli: Any, server: Any, part: Any, audit: Path, tmp_path: Path
) -> None:
    camera = tmp_path / "camera"
    there = [part(into=camera).name for _ in range(2)]
    process = cli.start("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    wait_until(lambda: len(decisions(audit)) == 2)
    slow = (camera / "slow.jpg").open("wb")
    slow.write(PHOTO)
    slow.flush()
    come = [part("hole", into=camera).name for _ in range(3)]
    wait_until(lambda: len(decisions(audit)) == 5)
    second = cli("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    assert second.returncode == 2
    assert "another gate watches" in second.stderr
    slow.write(b" says ok 0.99")
    slow.close()
    wait_until(lambda: len(decisions(audit)) == 6)
    assert ended(process) == [*there, *come, "slow.jpg"]
    last = decisions(audit)[-1]
    assert (last["decision"], last["image"]["bytes"]) == ("accept", len(PHOTO) + 13)
    assert last["waited_ms"] >= 0
    # After a restart, nothing is decided again, but what is new is.
    process = cli.start("gate", "--watch", camera, *ACCEPT, *to(server, audit))
    new = part(into=camera).name
    wait_until(lambda: len(decisions(audit)) == 7)
    assert ended(process) == [new]


# No room for the audit


@pytest.fixture(params=["tmpfs", "limit"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A folder with room for a few lines, and what a process needs to find no more."""
    if request.param == "limit":

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

        yield tmp_path, limit
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
    process = started(cli, "--stdin", *ACCEPT, *to(server, audit), preexec_fn=limit)
    stdout, stderr = process.communicate(paths, timeout=60)
    assert process.returncode == 12, stderr
    shown = stdout.splitlines()
    assert 0 < len(shown) < 30
    assert f"the audit file {audit} cannot be written" in stderr
    assert "nothing is decided without a line in it" in stderr
    # Each decision that was shown has its line, and nothing is left of the one that was not.
    assert len(decisions(audit)) == len(shown)
    assert verify([audit]).torn is None
    found = started(cli, str(part()), *ACCEPT, *to(server, audit), preexec_fn=limit)
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


# Calibration and alarm


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


def test_where_a_calibration_cannot_be_saved_is_told_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    words = ["gate", "calibrate", str(tmp_path), "--accept", "ok", "--risk", "0.1", "--save"]
    for place in (tmp_path, tmp_path / "nowhere" / "calibration.json"):
        done = CliRunner().invoke(app, [*words, str(place)])
        assert done.exit_code == 2
        assert "the calibration cannot be saved in" in done.stderr
