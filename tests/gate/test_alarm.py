"""The state of the alarm: shared by gates of one audit, and made again from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlserve.errors import UsageError
from mlserve.gate import audit_file
from mlserve.gate.alarm import Alarm
from mlserve.gate.audit_file import AuditFile, Rotation, family, lines_in
from mlserve.gate.chain import Line
from mlserve.gate.errors import AuditStopped
from mlserve.gate.gate import decided_before
from mlserve.gate.verify import verify
from mlserve.gate.watch import FileId

SMALL = Rotation(max_bytes=3000)


class Bettor:
    """What a gate does with an alarm and an audit."""

    def __init__(self, path: Path) -> None:
        self.audit = AuditFile(path, rotation=SMALL)
        self.alarm = Alarm(self.audit, {"ok"}, None)

    def decide(self, score: float) -> None:
        with self.audit.held():
            self.alarm.catch_up()
            told = self.alarm.bet(score)
            line = self.audit.append({"kind": "decision", "decision": "accept", "alarm": told})
            self.alarm.wrote(line.seq)

    def state(self) -> dict[str, Any]:
        """The game, with what the others have bet since."""
        with self.audit.held():
            self.alarm.catch_up()
        self.alarm.save()
        state: dict[str, Any] = json.loads(self.alarm.path.read_bytes())
        return state

    def end(self) -> None:
        self.alarm.save()
        self.audit.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_gates_of_one_audit_play_one_game(path: Path) -> None:
    """Also across files that are full, and from a state that is old, or gone."""
    gates = [Bettor(path), Bettor(path), Bettor(path)]
    for number in range(60):
        gates[number * number % 3].decide(0.9 + number % 7 / 100)
    states = [gate.state() for gate in gates]
    assert states[0] == states[1] == states[2]
    assert len(family(path)) > 3
    assert verify(family(path)).is_sound
    old = gates[0].alarm.path.read_bytes()
    for number in range(20):
        gates[number % 2].decide(0.5)
    now = gates[0].state()
    for gate in gates:
        gate.audit.close()  # as if killed: no state is saved
    for content in (old, None):
        if content is None:
            gates[0].alarm.path.unlink()
        else:
            gates[0].alarm.path.write_bytes(content)
        again = Bettor(path)
        assert again.state() == now
        again.audit.close()


def test_a_bet_without_a_line_is_not_kept(path: Path) -> None:
    """As on a full disk, where the gate stops between the two."""
    gate = Bettor(path)
    gate.decide(0.9)
    with gate.audit.held():
        gate.alarm.bet(0.1)
    gate.end()
    again = Bettor(path)
    assert again.alarm._game.bets == 1
    again.end()


def test_a_start_does_not_keep_other_gates_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full files of a long audit take long to read; gates stop if they cannot append."""
    first = Bettor(path)
    for number in range(40):
        first.decide(number / 40)
    wanted, starting = first.state(), AuditFile(path, rotation=SMALL)
    first.alarm.path.unlink()
    monkeypatch.setattr(first.audit, "_rotation", Rotation())

    def lines(file: Path) -> Iterator[Line]:
        if file != path:
            first.audit.append({"kind": "other"})  # stops if the file is held
        return lines_in(file)

    monkeypatch.setattr(audit_file, "lines_in", lines)
    alarm = Alarm(starting, {"ok"}, None)
    monkeypatch.undo()
    alarm.save()
    assert {**json.loads(alarm.path.read_bytes()), "seq": 0} == {**wanted, "seq": 0}
    with first.audit.held():
        assert decided_before(starting, {FileId(1, 2, 3): 0.0}) == set()
    starting.close()
    first.end()


def test_other_labels_begin_another_game(path: Path) -> None:
    first = Bettor(path)
    first.decide(0.9)
    first.end()
    other = AuditFile(path)
    assert Alarm(other, {"ok", "fine"}, None).key != first.alarm.key
    other.close()


def test_a_state_that_does_not_fit_is_told(path: Path) -> None:
    first = Bettor(path)
    for _ in range(3):
        first.decide(0.9)
    first.end()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(AuditStopped, match=r"knows of line 3, and .* ends before it"):
        Bettor(path)
    first.alarm.path.write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        Bettor(path)
