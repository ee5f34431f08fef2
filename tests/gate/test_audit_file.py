"""The audit file: one chain through restarts, torn lines, full files and several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlserve.cli.gate_verify import _checked
from mlserve.gate.audit_file import AuditFile, Fsync, Rotation, family, lines_in
from mlserve.gate.chain import FIRST, read_line, sealed
from mlserve.gate.errors import AuditBroken, AuditStopped
from mlserve.gate.verify import Checked, verify
from mlserve.testing.processes import wait_until

PART = {"time": "2020-02-29T12:00:00.000000Z", "kind": "decision", "decision": "accept"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path, count: int, **how: Any) -> None:
    """Append lines, and close the file."""
    audit = AuditFile(path, **how)
    for number in range(count):
        audit.append({**PART, "part": number})
    audit.close()


def is_sound(path: Path) -> bool:
    found = verify(family(path))
    assert not found.faults
    return found.torn is None


def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    for _ in range(3):
        written(path, 2)
    lines = list(lines_in(path))
    assert [line.seq for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0].prev == FIRST
    assert all(later.prev == line.sha256 for line, later in pairwise(lines))
    assert all("part" in json.loads(line) for line in path.read_text().splitlines())
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_of_a_line_is_cut_off(path: Path) -> None:
    written(path, 2)
    with path.open("ab") as file:
        file.write(b'{"seq":3,"prev":"')
    assert verify([path]).torn == (str(path), 17)
    assert verify([path]).is_sound
    written(path, 1)
    found = verify([path])
    assert (found.is_sound, found.torn, found.mended, found.lines) == (True, None, 1, 4)
    [mended] = [line.data for line in lines_in(path) if line.data["kind"] == "mended"]
    assert mended["dropped"]["bytes"] == 17


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_a_torn_line_of_any_length(path: Path, size: int) -> None:
    written(path, 1)
    with path.open("ab") as file:
        file.write(b"\0" * size)  # as a loss of power may leave it
    written(path, 1)
    assert is_sound(path)
    # A file that has nothing but one.
    path.write_bytes(b"x" * size)
    written(path, 1)
    assert is_sound(path)


def test_no_line_follows_one_that_was_changed(path: Path) -> None:
    written(path, 3)
    path.write_bytes(path.read_bytes().replace(b'"part":2', b'"part":7'))
    with pytest.raises(AuditBroken, match="its last line: it was changed"):
        AuditFile(path)


@pytest.mark.parametrize("how", ["cut", "removed", "replaced"])
def test_lines_that_vanish_while_a_gate_runs_stop_it(path: Path, how: str) -> None:
    """It knows what it wrote, so that this needs no head that was noted elsewhere."""
    audit = AuditFile(path, rotation=Rotation(max_bytes=1500))
    for number in range(10):
        audit.append({**PART, "part": number})
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "cut":
        path.write_bytes(b"".join(lines[:-1]))
    else:
        path.unlink()
    if how == "replaced":
        path.write_bytes(family(path)[0].read_bytes())
    before = [file.read_bytes() for file in family(path)]
    with pytest.raises(AuditBroken, match=r"it had line .*, which was removed while the gate ran"):
        audit.append(PART)
    audit.close()
    assert [file.read_bytes() for file in family(path) if file.stat().st_size] == before


def test_full_files_are_renamed_and_the_chain_goes_on(path: Path) -> None:
    written(path, 25, rotation=Rotation(max_bytes=1500))
    written(path, 5, rotation=Rotation(max_bytes=1500))
    files = family(path)
    assert len(files) > 3
    assert all(file.stat().st_size <= 1500 for file in files)
    assert is_sound(path)
    assert sum(verify(files).decisions.values()) == 30
    lines = [line for file in files for line in lines_in(file)]
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    # The order of the arguments does not matter; a file that is missing does.
    assert not verify(files[::-1]).faults
    [fault] = verify([*files[:1], *files[2:]]).faults
    assert "missing before it" in fault.what
    # After a crash between the renaming and the new file, it goes on too.
    path.unlink()
    written(path, 1)
    assert next(iter(lines_in(path))).data["kind"] == "continued"
    kept = [file for file in files if file != path]
    assert not verify([*kept, path]).faults


def test_a_new_day_begins_a_new_file(path: Path) -> None:
    daily = Rotation(daily=True)
    written(path, 2, rotation=daily)  # lines of another day than today
    assert len(family(path)) == 2
    assert is_sound(path)


def test_processes_share_a_file(path: Path) -> None:
    """Also while it is begun anew again and again."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mlserve.gate.audit_file import AuditFile, Rotation\n"
        "audit = AuditFile(Path(sys.argv[1]), rotation=Rotation(max_bytes=2000))\n"
        "for number in range(60):\n"
        "    audit.append({'kind': 'decision', 'decision': sys.argv[2], 'part': number})\n"
    )
    argv = [sys.executable, "-c", program, str(path)]
    writers = [subprocess.Popen([*argv, name]) for name in ("accept", "reject", "ask")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert is_sound(path)
    assert verify(family(path)).decisions == {"accept": 60, "reject": 60, "ask": 60}


def test_syncing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    audit = AuditFile(path, fsync=Fsync.ALWAYS)
    synced.clear()
    audit.append(PART)
    assert len(synced) == 1
    written(path, 5, fsync=Fsync.NEVER)
    assert len(synced) == 1
    late = AuditFile(path, fsync=Fsync.INTERVAL)
    late.append(PART)
    late.append(PART)
    wait_until(lambda: len(synced) == 2)
    late.close()
    assert len(synced) == 2


def test_a_sync_that_fails_later_stops_the_next_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        failed.append(True)
        raise OSError(5, "Input/output error")

    failed: list[bool] = []
    audit = AuditFile(path, fsync=Fsync.INTERVAL)
    monkeypatch.setattr(os, "fsync", fail)
    audit.append(PART)
    wait_until(lambda: bool(failed))
    with pytest.raises(AuditStopped, match="Input/output error"):
        audit.append(PART)


def test_a_sync_that_fails_leaves_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    audit = AuditFile(path)
    audit.append(PART)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(AuditStopped, match="cannot be written"):
            audit.append(PART)
    assert len(list(lines_in(path))) == 1


# What `verify` finds


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    written(path, 8)
    return path.read_bytes().splitlines(keepends=True)


def faults(path: Path, lines: list[bytes]) -> list[str]:
    path.write_bytes(b"".join(lines))
    found = verify([path])
    assert found.is_sound is not bool(found.faults)
    return [f"{fault.line}: {fault.what}" for fault in found.faults]


def test_a_changed_line_is_found(path: Path, lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b'"accept"', b'"reject"')
    assert faults(path, lines) == ["4: it was changed"]


def test_a_changed_line_with_a_digest_of_its_own_is_found(path: Path, lines: list[bytes]) -> None:
    line = read_line(lines[3])
    record = {key: value for key, value in line.data.items() if key not in ("seq", "prev")}
    lines[3], _ = sealed(line.seq, line.prev, {**record, "decision": "reject"})
    [fault] = faults(path, lines)
    assert fault == "5: it does not follow the line before it: that one was replaced"


def test_missing_added_and_moved_lines_are_found(path: Path, lines: list[bytes]) -> None:
    [fault] = faults(path, [*lines[:2], *lines[4:]])
    assert fault == "3: 2 missing before it: it is line 5, after line 2"
    [fault] = faults(path, [*lines[:4], lines[1], *lines[4:]])[:1]
    assert fault == "5: it is added or in the wrong place: it is line 2, after line 4"
    assert faults(path, [*lines[:3], lines[4], lines[3], *lines[5:]])
    assert faults(path, [*lines[:3], b"{}\n", *lines[3:]]) == ["4: it is not a line of a gate"]
    assert faults(path, [*lines[:3], lines[3][:40] + b"\n", *lines[4:]])
    torn_inside = [*lines[:3], lines[3][:40], *lines[4:]]
    assert faults(path, torn_inside)


def test_lines_missing_at_the_beginning_are_found(path: Path, lines: list[bytes]) -> None:
    [fault] = faults(path, lines[2:])
    assert fault == "1: lines are missing before it: it is line 3, and no beginning of a file"
    path.unlink()
    written(path, 12, rotation=Rotation(max_bytes=1000))
    others = family(path)[1:]
    assert len(others) > 1
    assert verify(others).is_sound  # an old file may be kept elsewhere


def test_a_file_that_becomes_full_during_the_check_is_no_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Rotation(max_bytes=1000)
    written(path, 7, rotation=small)
    rounds: list[int] = []

    def check(files: Sequence[Path], head: str | None) -> Checked:
        rounds.append(len(files))
        if len(rounds) == 1:
            written(path, 12, rotation=small)
        return verify(files, head)

    monkeypatch.setattr("mlserve.gate.verify.verify", check)
    assert _checked([path], None).is_sound
    assert len(rounds) == 2


def test_a_changed_first_line_is_the_only_fault(path: Path) -> None:
    written(path, 12, rotation=Rotation(max_bytes=1000))
    path.write_bytes(path.read_bytes().replace(b"continued", b"begun", 1))
    [fault] = verify(family(path)).faults
    assert (fault.line, fault.what) == (1, "it was changed")


def test_a_changed_line_does_not_hide_a_missing_one(path: Path, lines: list[bytes]) -> None:
    changed = lines[3].replace(b'"accept"', b'"reject"')
    found = faults(path, [*lines[:3], changed, *lines[5:]])
    assert found == [
        "4: it was changed",
        "5: 1 missing before it: it is line 6, after line 3",
    ]


def test_lines_missing_at_the_end_are_found_by_their_head(path: Path, lines: list[bytes]) -> None:
    head = read_line(lines[-1]).sha256
    assert verify([path], head).has_head is True
    path.write_bytes(b"".join(lines[:-1]))
    assert verify([path]).is_sound
    assert not verify([path], head).is_sound


def test_every_byte_matters(path: Path, lines: list[bytes]) -> None:
    content = b"".join(lines[:3])
    for place in range(0, len(content) - 1, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not verify([path]).is_sound, place
