"""The gate: each part is asked about, decided, written into the audit, and only then told."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserve.background import run_within
from mlserve.errors import MlserveError, UsageError, as_utf8, reason_of
from mlserve.gate.audit_file import as_time, lines_in, newest_first, now
from mlserve.gate.lamp import LampFailed
from mlserve.gate.policy import Decision, Policy, Reason, Verdict, score_of
from mlserve.gate.watch import FileId

if TYPE_CHECKING:
    from mlserve.deadline import Deadline
    from mlserve.gate.alarm import Alarm
    from mlserve.gate.asking import Answered, Asker
    from mlserve.gate.audit_file import AuditFile
    from mlserve.gate.chain import Line
    from mlserve.gate.lamp import Lamp

_SCORES = 5
_MOST_BYTES = 2**28
"""More bytes than any image of a part has: a device, or a file that is not one, would take all of
the memory, and end the gate."""
_VARIABLE = "MLSERVE_GATE_"
_MOST_LATE = 1e6
_CLOCK_STEP = 86_400.0
"""Seconds by which the clock may have been put back between a file and the line about it."""


class Changed(Exception):
    """A watched file was changed before it was read to its end, or has another name now.

    It comes again if it is still there.
    """


@dataclass(frozen=True, slots=True)
class Part:
    """A part to decide on: the name of its image, and which file that is, if it is a watched one.

    `waited` is how long it had been there when its turn came, in seconds.
    """

    name: str
    id: FileId | None = None
    waited: float | None = None


class Decided(NamedTuple):
    """What became of a part: what the line says, and what is to be shown.

    The two differ if the lamp failed: then a second line says so.
    """

    part: Part
    verdict: Verdict
    line: Line


class _Image(NamedTuple):
    content: bytes
    sha256: str


class Gate:
    """Decides on parts, one after the other.

    Raises AuditStopped if the audit cannot be written: the part is not decided then, and nothing
    was told to anybody.
    """

    def __init__(
        self,
        asker: Asker,
        policy: Policy,
        audit: AuditFile,
        *,
        alarm: Alarm | None = None,
        lamps: Sequence[Lamp] = (),
    ) -> None:
        self._asker = asker
        self._policy = policy
        self._audit = audit
        self._alarm = alarm
        self._lamps = lamps

    @property
    def is_alarmed(self) -> bool:
        """Whether the scores no longer come as they did."""
        return self._alarm is not None and self._alarm.is_on

    def decide(self, part: Part, deadline: Deadline) -> Decided:
        """Decide on a part within the deadline, write the line, and tell the lamps.

        Raises Changed, without a decision, for a watched file that is being written again.
        """
        began = time.monotonic()
        image: _Image | None = None
        answered: Answered | None = None
        error: MlserveError | None = None
        try:
            image = run_within(deadline, f"reading {part.name}", lambda: _read(part))
            answered = self._asker.ask(image.content, deadline)
            verdict = self._policy.judge(answered.prediction)
        except MlserveError as failed:
            error = failed
            verdict = self._policy.on(failed)
        record = self._record(part, image, answered, error)
        record["seconds"] = round(time.monotonic() - began, 6)
        with self._audit.held():
            verdict, line = self._written(verdict, record, answered)
        return Decided(part, self._told(verdict, part, answered, line, self._lamps), line)

    def _written(
        self, verdict: Verdict, record: dict[str, Any], answered: Answered | None
    ) -> tuple[Verdict, Line]:
        """Write the line of a part. The audit is held, so that no line comes between."""
        alarm = self._alarm
        if alarm is not None:
            alarm.catch_up()
            if answered is not None:
                score = score_of(answered.prediction, self._policy.accept)
                record["alarm"] = alarm.bet(score)
            if alarm.is_on:
                verdict = Verdict(
                    verdict.decision.at_least(Decision.ASK),
                    Reason.ALARM,
                    f"the scores no longer come as they did; {verdict.text}",
                )
        line = self._audit.append(
            {
                "time": now(),
                "kind": "decision",
                "decision": verdict.decision.value,
                "reason": verdict.reason.value,
                "text": verdict.text,
                **record,
            }
        )
        if alarm is not None:
            alarm.wrote(line.seq)
        return verdict, line

    def _record(
        self,
        part: Part,
        image: _Image | None,
        answered: Answered | None,
        error: MlserveError | None,
    ) -> dict[str, Any]:
        digest = None if image is None else f"sha256:{image.sha256}"
        size = None if image is None else len(image.content)
        record: dict[str, Any] = {
            "image": {"name": as_utf8(part.name), "sha256": digest, "bytes": size},
            "thresholds": self._policy.thresholds(),
        }
        if part.id is not None:
            record["file"] = part.id._asdict()
        if part.waited is not None:
            record["waited_ms"] = round(min(max(part.waited, 0.0), _MOST_LATE) * 1000, 3)
        if answered is not None:
            record |= _of_answer(answered)
        if error is not None:
            record["error"] = {"kind": error.kind, "message": error.message}
            known = ("request_id", "trace_id", "timings_ms")
            record |= {key: error.details[key] for key in known if key in error.details}
        return record

    def _told(
        self,
        verdict: Verdict,
        part: Part,
        answered: Answered | None,
        line: Line,
        lamps: Sequence[Lamp],
    ) -> Verdict:
        """Tell the lamps. One that fails is an error, and can only make the decision stricter.

        Then the others are told again, so that none of them goes on showing a milder one.
        """
        told, failures = [], []
        for lamp in lamps:
            try:
                lamp.tell(verdict.decision, _variables(verdict, part, answered))
                told.append(lamp)
            except LampFailed as error:
                failures.append(error.message)
        if not failures:
            return verdict
        said = "; ".join(failures)
        stricter = verdict.decision.at_least(self._policy.on_error)
        self._write_failure(line, stricter, said)
        failed = Verdict(stricter, Reason.ERROR, f"{said}; before that: {verdict.text}")
        if stricter is verdict.decision:
            return failed
        return self._told(failed, part, answered, line, told)

    def _write_failure(self, line: Line, decision: Decision, said: str) -> None:
        record = {
            "time": now(),
            "kind": "lamp_failed",
            "of": line.seq,
            "decision": decision.value,
            "reason": Reason.ERROR.value,
            "text": said,
        }
        with self._audit.held():
            if self._alarm is not None:
                self._alarm.catch_up()
            written = self._audit.append(record)
            if self._alarm is not None:
                self._alarm.wrote(written.seq)


def decided_before(audit: AuditFile, files: Mapping[FileId, float]) -> set[FileId]:
    """Return which of these files have a line in the audit.

    The values say since when each file can have been there, as Unix times: no line about it is
    older, but for a step of the clock. So a long audit is read from its newest file back to there.
    It is not held: that takes longer than other gates wait for it, and they would stop.
    """
    wanted = dict(files)
    for file in newest_first(audit.path):
        first = ""
        for line in lines_in(file):
            first = first or str(line.data.get("time", ""))
            told = line.data.get("file")
            if isinstance(told, Mapping):
                wanted.pop(FileId(*(int(told[name]) for name in FileId._fields)), None)
        if not wanted:
            break
        begin = max(min(wanted.values()) - _CLOCK_STEP, 0.0)
        if "" < first < as_time(begin):
            break
    return files.keys() - wanted.keys()


def _of_answer(answered: Answered) -> dict[str, Any]:
    answer, identity = answered
    return {
        "label": answer.label,
        "scores": [[score.label, score.score] for score in answer.scores[:_SCORES]],
        "model": answer.model,
        "version": answer.version,
        "artifact": identity.artifact,
        "certificate": identity.certificate,
        "served_by": answer.served_by,
        "rungs": answer.rungs,
        "endpoint": answer.endpoint,
        "request_id": answer.request_id,
        "trace_id": answer.trace_id,
        "attempts": answer.attempts,
        "timings_ms": answer.timings.to_json(),
    }


def _variables(verdict: Verdict, part: Part, answered: Answered | None) -> dict[str, str]:
    """Return the environment variables of the command that a decision runs."""
    answer = None if answered is None else answered.prediction
    score = answer.scores[0].score if answer is not None and answer.scores else None
    found = {
        "DECISION": verdict.decision.value,
        "REASON": verdict.reason.value,
        "TEXT": verdict.text,
        "FILE": part.name,
        "LABEL": "" if answer is None else answer.label,
        "SCORE": "" if score is None else repr(score),
        "REQUEST_ID": "" if answer is None else answer.request_id,
    }
    return {f"{_VARIABLE}{name}": value.replace("\0", "") for name, value in found.items()}


def _read(part: Part) -> _Image:
    """Read the image of a part, once. Raises UsageError, or Changed for a watched file."""
    try:
        with Path(part.name).open("rb") as file:
            if part.id is not None and FileId.of(os.fstat(file.fileno())) != part.id:
                raise Changed
            content = file.read(_MOST_BYTES + 1)
            if part.id is not None and FileId.of(os.fstat(file.fileno())) != part.id:
                raise Changed
    except FileNotFoundError as error:
        if part.id is not None:
            raise Changed from error
        raise _unreadable(part, error) from error
    except (OSError, ValueError) as error:  # a ValueError: a NUL in the path
        raise _unreadable(part, error) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"{part.name} has more than {_MOST_BYTES} bytes",
            hint="give the path of a JPEG or PNG file",
        )
    return _Image(content, hashlib.sha256(content).hexdigest())


def _unreadable(part: Part, error: OSError | ValueError) -> UsageError:
    reason = getattr(error, "strerror", None) or reason_of(error)
    return UsageError(
        f"{part.name} cannot be read: {reason}", hint="give the path of a JPEG or PNG file"
    )
