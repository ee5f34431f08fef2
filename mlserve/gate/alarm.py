"""The alarm of a gate: its state in a file beside the audit, which the audit can bring up to date.

The state may be older than the audit, as after a crash: then the scores of the lines since are bet
on again. Each line has the fair random number of its bet, so that the same lines give the same
capital. It comes from the digest of the line before, which nobody can choose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlserve.artifact import digest_of
from mlserve.errors import UsageError, reason_of
from mlserve.gate.errors import AuditStopped
from mlserve.gate.martingale import Martingale, bin_of
from mlserve.replacing import replacing

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlserve.gate.audit_file import AuditFile
    from mlserve.gate.chain import Line
    from mlserve.gate.guarantee import Guarantee

RESET = "alarm_reset"
"""The kind of the line with which a user begins the game anew."""
_SAVE_EVERY = 100
"""Lines after which the state is saved; fewer would only make a restart faster."""
_FAIR_DIGITS = 13
"""Hexadecimal digits of a digest that make a random number: 52 bits, as many as a float has."""


class Alarm:
    """Watches the scores of the accepted labels.

    `guarantee` has the scores of its holdout, if its risk is among all parts: the line is held to
    them. Otherwise the line is held to its own beginning. Another guarantee or other labels begin a
    new game. Raises UsageError for a state that cannot be read.
    """

    def __init__(
        self, audit: AuditFile, accept: Collection[str], guarantee: Guarantee | None
    ) -> None:
        self.path = audit.path.with_name(f"{audit.path.name}.alarm")
        self._audit = audit
        self._bins = () if guarantee is None else guarantee.bins
        subject = [sorted(accept), None if guarantee is None else guarantee.digest]
        self.key = digest_of(json.dumps(subject).encode())[-16:]
        self._game, self._seq, self._saved_at = self._begun(), 0, 0
        self._is_ahead = False
        self._load()
        # Other gates stop if they cannot append for long, so most is read before it is held.
        self._take_all(audit.full_lines_after(self._seq))
        with audit.held():
            self._require_no_more_than_the_audit()
            self.catch_up()

    @property
    def is_on(self) -> bool:
        """Whether there was an alarm, and nobody has begun anew since."""
        return self._game.is_alarm

    def catch_up(self) -> None:
        """Take in the lines that were written since. To be called while the audit is held."""
        head = self._audit.head
        if head is None or head.seq == self._seq:
            return
        self._take_all(self._audit.lines_after(self._seq))

    def bet(self, score: float | None) -> dict[str, Any]:
        """Bet on a score, and return what its line says of it. While the audit is held."""
        number = bin_of(score)
        digest = digest_of(f"fair {self._audit.next_prev}".encode()).removeprefix("sha256:")
        fair = int(digest[:_FAIR_DIGITS], 16) / 16**_FAIR_DIGITS
        self._is_ahead = True
        bet = self._game.bet(number, fair)
        return {"key": self.key, "bin": number, "fair": fair, **bet.to_json()}

    def wrote(self, seq: int) -> None:
        """Note that the line of that number, with the last bet if there was one, was written."""
        self._seq, self._is_ahead = seq, False
        if seq - self._saved_at >= _SAVE_EVERY:
            self.save()

    def reset(self, time: str) -> None:
        """Begin the game anew, and write a line that says so."""
        with self._audit.held():
            line = self._audit.append({"time": time, "kind": RESET, "key": self.key})
            self._game, self._seq = self._begun(), line.seq
            self.save()

    def save(self) -> None:
        """Write the state. If that fails, the next start takes longer: the audit has it all.

        A state with a bet whose line could not be written is not saved: the audit lacks that.
        """
        if self._is_ahead:
            return
        state = {"key": self.key, "seq": self._seq, **self._game.to_json()}
        try:
            with replacing(self.path) as file:
                json.dump(state, file)
        except OSError:
            return
        self._saved_at = self._seq

    def _begun(self) -> Martingale:
        return Martingale.after(self._bins)

    def _load(self) -> None:
        """Take the state from its file, if it is of this game."""
        try:
            state = json.loads(self.path.read_bytes())
            if state["key"] == self.key:
                self._game, self._seq = Martingale.from_json(state), int(state["seq"])
                self._saved_at = self._seq
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"the state of the alarm, {self.path}, cannot be read: {reason_of(error)}",
                hint="remove it: the audit has what it needs to make it again",
            ) from error

    def _require_no_more_than_the_audit(self) -> None:
        head = self._audit.head
        if self._seq > (0 if head is None else head.seq):
            raise AuditStopped(
                f"{self.path} knows of line {self._seq}, and {self._audit.path} ends before it",
                hint="lines were removed from the audit, or lost with the power: check it with "
                "`mlserve gate verify --head`; to go on with it as it is, remove the state",
            )

    def _take_all(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._take(line.data)
            self._seq = line.seq

    def _take(self, data: Mapping[str, Any]) -> None:
        if data.get("kind") == RESET and data.get("key") == self.key:
            self._game = self._begun()
        told = data.get("alarm")
        if isinstance(told, Mapping) and told.get("key") == self.key:
            self._game.bet(int(told["bin"]), float(told["fair"]))
