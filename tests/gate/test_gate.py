"""What a gate does around the answer: the file that it reads, its lamps, and what it did before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlserve.deadline import Deadline
from mlserve.gate import audit_file
from mlserve.gate import gate as module
from mlserve.gate.asking import Answered
from mlserve.gate.audit_file import AuditFile, Rotation, as_time, family, lines_in
from mlserve.gate.chain import Line
from mlserve.gate.gate import Changed, Gate, Part, decided_before
from mlserve.gate.identity import Identity
from mlserve.gate.lamp import LampFailed
from mlserve.gate.policy import Decision, Policy
from mlserve.gate.watch import FileId
from tests.gate.answers import answer


class Ok:
    """An asker with the answer that every part is good."""

    def ask(self, image: bytes, deadline: Deadline) -> Answered:
        return Answered(answer(("ok", 0.95)), Identity("m", 1, None, None))


class Bulb:
    """A lamp that fails at some decisions."""

    def __init__(self, *fails_at: str) -> None:
        self.shown: list[str] = []
        self._fails_at = fails_at

    def tell(self, decision: str, variables: Mapping[str, str]) -> None:
        if decision in self._fails_at:
            raise LampFailed("the lamp is broken")
        self.shown.append(f"{decision} {variables['MLSERVE_GATE_REASON']}")


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditFile]:
    opened = AuditFile(tmp_path / "audit.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "part.jpg").write_bytes(b"image")
    return tmp_path / "part.jpg"


@pytest.mark.parametrize(
    ("on_error", "shown", "lines"),
    [
        (Decision.REJECT, ["accept label", "reject error"], ["accept", "reject"]),
        (Decision.ASK, ["accept label"], ["accept", "ask", "ask"]),
        (Decision.ACCEPT, ["accept label"], ["accept", "accept"]),
    ],
)
def test_no_lamp_goes_on_showing_what_was_taken_back(
    audit: AuditFile, image: Path, on_error: Decision, shown: list[str], lines: list[str]
) -> None:
    works, broken = Bulb("ask"), Bulb("accept")
    policy = Policy({"ok"}, on_error=on_error)
    gate: Any = Gate(Ok(), policy, audit, lamps=[works, broken])  # type: ignore[arg-type]
    assert gate.decide(Part(str(image)), Deadline.after(20)).verdict.decision is on_error
    assert works.shown == shown
    assert broken.shown == []
    assert [line.data["decision"] for line in lines_in(audit.path)] == lines


def test_a_watched_file_that_gets_another_name_comes_again(audit: AuditFile, image: Path) -> None:
    """It is the same part, and its name was not its fault."""
    found = FileId.of(image.stat())
    image.rename(image.with_name("named.jpg"))
    gate = Gate(Ok(), Policy({"ok"}), audit)  # type: ignore[arg-type]
    with pytest.raises(Changed):
        gate.decide(Part(str(image), found), Deadline.after(20))
    gate.decide(Part(str(image.with_name("named.jpg")), found), Deadline.after(20))
    assert [line.data["decision"] for line in lines_in(audit.path)] == ["accept"]


def test_a_long_audit_is_not_read_for_a_new_file(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera goes on while the gate is started again."""
    audit = AuditFile(tmp_path / "audit.jsonl", rotation=Rotation(max_bytes=1000))
    day, new = 86_400.0, image.stat().st_mtime
    for ago in range(30, -1, -1):
        time = as_time(new - ago * day)
        monkeypatch.setattr(audit_file, "now", lambda time=time: time)
        file = {"inode": ago, "size": 1, "mtime_ns": 1}
        audit.append({"time": time, "kind": "decision", "file": file})
    read: list[Path] = []

    def lines(file: Path) -> Iterator[Line]:
        read.append(file)
        return lines_in(file)

    monkeypatch.setattr(module, "lines_in", lines)
    assert decided_before(audit, {FileId.of(image.stat()): new}) == set()
    assert 0 < len(read) < 4
    assert len(family(audit.path)) > 6
    for ago in (0, 7, 30):
        before = FileId(ago, 1, 1)
        assert decided_before(audit, {before: new - ago * day, FileId(9, 9, 9): new}) == {before}
    read.clear()
    # A time that means nothing: as of a camera without a clock.
    assert decided_before(audit, {FileId(9, 9, 9): -1e12}) == set()
    assert len(read) == len(family(audit.path))
    audit.close()


def test_since_when_a_file_can_have_been_there(tmp_path: Path, image: Path) -> None:
    from mlserve.gate.watch import FolderWatch

    os.utime(image, (1000, 1000))
    watch = FolderWatch(tmp_path)
    assert watch.present() == {FileId.of(image.stat()): 1000}
    os.utime(image, (2**32, 2**32))  # a clock that is ahead
    [since] = watch.present().values()
    assert since == image.stat().st_ctime
    watch.close()
