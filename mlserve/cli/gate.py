"""`mlserve gate`: accept a part, reject it or ask a human, and write down why."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli import clock
from mlserve.cli.arguments import with_fields
from mlserve.cli.gate_calibrate import calibrate
from mlserve.cli.gate_verify import usual_audit, verify
from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, require_input, say
from mlserve.cli.server_choice import MaxAttemptsOption, PriorityOption, ServerChoice
from mlserve.cli.usage import CommandWithCommands, as_command
from mlserve.client import Retries
from mlserve.client.client import DEFAULT_TIMEOUT
from mlserve.client.retries import DEFAULT_RETRIES
from mlserve.deadline import Deadline, check_seconds
from mlserve.errors import ExitCode, UsageError, counted, readable
from mlserve.gate.asking import Asker
from mlserve.gate.audit_file import DEFAULT_FILE_BYTES, AuditFile, Fsync, Rotation, now
from mlserve.gate.errors import Alarmed
from mlserve.gate.gate import Changed, Gate, Part, decided_before
from mlserve.gate.guarantee import Guarantee
from mlserve.gate.lamp import DEFAULT_BAUD, ExecLamp, Lamp, SerialLamp
from mlserve.gate.policy import Decision, Policy, require_own_weights

if TYPE_CHECKING:
    from mlserve.client import Client
    from mlserve.gate.alarm import Alarm
    from mlserve.gate.gate import Decided
    from mlserve.gate.watch import FolderWatch

_RULE, _TOLD, _AUDIT = "What is accepted", "Who is told", "Audit"


class OnAlarm(StrEnum):
    """What an alarm does."""

    OFF = "off"
    ASK = "ask"
    STOP = "stop"


@with_fields
def decide(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="The image of a part, a JPEG or PNG file.", show_default=False
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="The total time allowed for a part, in seconds: from the start of the command, or "
            "with --stdin and --watch from when its turn comes, to the answer.",
        ),
    ] = DEFAULT_TIMEOUT,
    *,
    stdin: Annotated[
        bool,
        typer.Option(
            "--stdin",
            help="Decide on each path that comes as a line of standard input, one line for each.",
        ),
    ] = False,
    watch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Decide on each image of this folder, those that are there and those that come, "
            "once and in the order in which they are completely written. SIGTERM ends it.",
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            rich_help_panel=_RULE,
            help="A label to accept; repeat it for several. Default: those of --calibration.",
            show_default=False,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            rich_help_panel=_RULE,
            help="The least score of an accepted label. Default: the label is enough.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_RULE,
            help="Accept only above the threshold in this file of `mlserve gate calibrate`. It "
            "holds for one version of a model: another one is refused.",
        ),
    ] = None,
    on_unsure: Annotated[
        Decision,
        typer.Option(
            rich_help_panel=_RULE,
            help="What becomes of an accepted label without enough score.",
        ),
    ] = Decision.ASK,
    on_timeout: Annotated[
        Decision,
        typer.Option(
            rich_help_panel=_RULE, help="What becomes of a part without an answer in time."
        ),
    ] = Decision.REJECT,
    on_error: Annotated[
        Decision,
        typer.Option(
            rich_help_panel=_RULE,
            help="What becomes of a part whose image cannot be read or asked about, or whose lamp "
            "cannot be set.",
        ),
    ] = Decision.REJECT,
    alarm: Annotated[
        OnAlarm | None,
        typer.Option(
            rich_help_panel=_RULE,
            help="What happens once the scores no longer come as they did, so that no guarantee "
            "holds: ask a human about every part, or stop with exit code 13. It lasts until "
            "--reset-alarm. Default: ask with --calibration, else off.",
            show_default=False,
        ),
    ] = None,
    reset_alarm: Annotated[
        bool,
        typer.Option(
            "--reset-alarm",
            rich_help_panel=_RULE,
            help="Forget the alarm and the scores so far; the audit notes it.",
        ),
    ] = False,
    choice: ServerChoice,
    max_attempts: MaxAttemptsOption = DEFAULT_RETRIES.max_attempts,
    priority: PriorityOption = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            rich_help_panel=_TOLD,
            help="A command to run for each decision, without a shell: the decision is its last "
            "argument, and more is in MLSERVE_GATE_... variables.",
        ),
    ] = None,
    serial: Annotated[
        Path | None,
        typer.Option(
            metavar="DEVICE",
            rich_help_panel=_TOLD,
            help="A serial port that gets ACCEPT, REJECT or ASK and a line feed, 8N1.",
        ),
    ] = None,
    baud: Annotated[
        int,
        typer.Option(
            metavar="RATE", rich_help_panel=_TOLD, help="The speed of the port, in bits per second."
        ),
    ] = DEFAULT_BAUD,
    lamp_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            rich_help_panel=_TOLD,
            help="The time that the command, and the port, may take, in seconds. A command that "
            "takes longer is killed.",
        ),
    ] = 5.0,
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_AUDIT,
            help="The audit file, to which each decision is appended before it is told. Default: "
            "gate/audit.jsonl in your state folder, or in MLSERVE_HOME.",
        ),
    ] = None,
    fsync: Annotated[
        Fsync,
        typer.Option(
            rich_help_panel=_AUDIT,
            help="When a line is forced to the disk: always before its decision is told; at most a "
            "second later; or when the system likes, so that a loss of power loses lines.",
        ),
    ] = Fsync.ALWAYS,
    rotate_bytes: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="BYTES",
            rich_help_panel=_AUDIT,
            help="The size in bytes at which a new audit file is begun; 0 never begins one.",
        ),
    ] = DEFAULT_FILE_BYTES,
    rotate_daily: Annotated[
        bool,
        typer.Option(
            "--rotate-daily", rich_help_panel=_AUDIT, help="Begin a new audit file each day (UTC)."
        ),
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Decide on a part by its image: accept it, reject it, or ask a human.

    It prints one line for each part, which begins with accept, reject or ask. Whatever goes wrong
    rejects, unless an option says otherwise. Each decision is a line of the audit file before it is
    told to anybody. `mlserve gate calibrate` finds a threshold for a risk, and `mlserve gate
    verify` checks audit files; a file of such a name is ./calibrate.

    Exit codes: 0 accept, 10 reject, 11 ask a human; with --stdin that of the strictest decision,
    with --watch 0 once it is ended. 2 bad call, 12 the audit file cannot be written, so that
    nothing was decided, 13 stopped by --alarm.

    For example:

    mlserve gate part.jpg --timeout 1 --accept ok --min-score 0.9

    mlserve gate --watch camera/ --calibration calibration.json --serial /dev/ttyUSB0

    ls parts/*.jpg | mlserve gate --stdin --accept ok --exec ./lamp.sh
    """
    deadline = Deadline.after(timeout, since=clock.command_start())
    _require_one_source(file, watch, is_stdin=stdin)
    if on_unsure is Decision.ACCEPT:
        raise UsageError(
            "--on-unsure accept would make the threshold mean nothing",
            hint="leave --min-score and --calibration out, or choose ask or reject",
        )
    if min_score is not None and not math.isfinite(min_score):
        raise UsageError(f"--min-score {min_score} is no score", hint="give for example 0.9")
    guarantee = _guarantee(calibration)
    labels = _labels(accept, guarantee)
    policy = Policy(labels, min_score, guarantee, on_unsure, on_timeout, on_error)
    on_alarm = alarm or (OnAlarm.OFF if guarantee is None else OnAlarm.ASK)
    if reset_alarm and on_alarm is OnAlarm.OFF:
        raise UsageError("--reset-alarm: there is no alarm", hint="give --alarm ask or stop too")

    def connect(until: Deadline) -> Client:
        found = choice.find(until)
        require_own_weights(has_random_weights=found.has_random_weights)
        return found.connect(retries=Retries(max_attempts), priority=priority)

    with ExitStack() as stack:
        lamps = _lamps(command, serial, baud, check_seconds("--lamp-timeout", lamp_timeout))
        folder = None if watch is None else stack.enter_context(closing(_watched(watch)))
        asker = stack.enter_context(closing(Asker(connect, guarantee)))
        asker.prepare(deadline)
        rotation = Rotation(rotate_bytes, rotate_daily)
        path = (audit or usual_audit()).absolute()
        lines = stack.enter_context(closing(AuditFile(path, fsync=fsync, rotation=rotation)))
        watched = _alarm(stack, lines, policy, is_on=on_alarm is not OnAlarm.OFF, reset=reset_alarm)
        gate = Gate(asker, policy, lines, alarm=watched, lamps=lamps)
        show = Shown(output, is_one=file is not None, stops=on_alarm is OnAlarm.STOP)
        show.look(gate)
        if file is not None:
            show(gate.decide(Part(file), deadline), gate)
        elif folder is None:
            _decide_lines(gate, show, timeout)
        else:
            _decide_folder(gate, show, folder, lines, timeout)
    if show.exit_code:
        raise typer.Exit(int(show.exit_code))


class Shown:
    """Prints decisions, and remembers the exit code: that of the strictest.

    `stops`: raises Alarmed once the gate has an alarm.
    """

    def __init__(self, output: OutputFormat, *, is_one: bool, stops: bool) -> None:
        self._output = output
        self._is_one = is_one
        self._stops = stops
        self._strictest = Decision.ACCEPT

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        return self._strictest.exit_code

    def __call__(self, decided: Decided, gate: Gate) -> None:
        """Print a decision."""
        decision, reason, text = decided.verdict
        self._strictest = self._strictest.at_least(decision)
        if self._output is OutputFormat.JSON:
            told = {"decision": decision, "reason": reason, "text": text}
            line = decided.line
            print_json({**line.data, **told, "sha256": line.sha256}, indent=None)
        else:
            name = () if self._is_one else (readable(decided.part.name),)
            say("\t".join((decision, *name, readable(text))))
        self.look(gate)

    def forget(self) -> None:
        """Forget the decisions: a folder's watch ends as it was asked to."""
        self._strictest = Decision.ACCEPT

    def look(self, gate: Gate) -> None:
        """Raise Alarmed if the alarm is to stop the gate."""
        if self._stops and gate.is_alarmed:
            raise Alarmed(
                "the scores no longer come as they did, so that no guarantee holds",
                hint="find out what has changed; then calibrate again, or give --reset-alarm",
            )


def _decide_lines(gate: Gate, show: Shown, timeout: float) -> None:
    """Decide on the paths on standard input. Raises UsageError if there is none."""
    require_input()
    is_empty = True
    for line in sys.stdin.buffer:
        is_empty = False
        name = os.fsdecode(line.removesuffix(b"\n"))
        show(gate.decide(Part(name), Deadline.after(timeout)), gate)
    if is_empty:
        raise UsageError(
            "there is no line on standard input, so that nothing was decided",
            hint="send the path of an image on each line",
        )


def _decide_folder(
    gate: Gate, show: Shown, folder: FolderWatch, audit: AuditFile, timeout: float
) -> None:
    """Decide on the images of a folder until SIGTERM, but for those that the audit has."""
    signal.signal(signal.SIGTERM, lambda *_: folder.end())
    known = decided_before(audit, folder.present())
    for each in known:
        folder.know(each)
    note(f"watching {folder.folder}: {counted(len(known), 'file')} in it decided before")
    for found in folder.files():
        part = Part(str(found.path), found.id, waited=time.time() - found.changed_at)
        try:
            decided = gate.decide(part, Deadline.after(timeout))
        except Changed:  # it is being written again, and comes again
            continue
        show(decided, gate)
        folder.know(found.id)
    show.forget()


def _require_one_source(file: str | None, watch: Path | None, *, is_stdin: bool) -> None:
    given = [
        name
        for name, is_given in (("FILE", file), ("--stdin", is_stdin), ("--watch", watch))
        if is_given
    ]
    if len(given) == 1:
        return
    if given:
        raise UsageError(f"{given[0]} and {given[1]} do not go together", hint="give one of them")
    raise UsageError(
        "mlserve gate needs FILE",
        hint="give the image of a part: mlserve gate FILE, or --watch DIR, or --stdin",
    )


def _guarantee(calibration: Path | None) -> Guarantee | None:
    return None if calibration is None else Guarantee.read(calibration)


def _labels(accept: Sequence[str] | None, guarantee: Guarantee | None) -> frozenset[str]:
    """Return the labels to accept. Raises UsageError for none, or others than calibrated."""
    if guarantee is None:
        if not accept:
            raise UsageError(
                "no label is to be accepted",
                hint="name those of good parts: --accept LABEL, or give --calibration FILE",
            )
        return frozenset(accept)
    if accept and set(accept) != set(guarantee.accept):
        raise UsageError(
            f"the calibration is for --accept {' --accept '.join(guarantee.accept)}",
            hint="leave --accept out, or calibrate for these labels",
        )
    return frozenset(guarantee.accept)


def _lamps(command: str | None, serial: Path | None, baud: int, seconds: float) -> list[Lamp]:
    lamps: list[Lamp] = []
    if serial is not None:
        lamps.append(SerialLamp(serial, baud, seconds))
    if command is not None:
        lamps.append(ExecLamp(command, seconds))
    return lamps


def _watched(folder: Path) -> FolderWatch:
    from mlserve.gate.watch import FolderWatch

    return FolderWatch(folder)


def _alarm(
    stack: ExitStack, audit: AuditFile, policy: Policy, *, is_on: bool, reset: bool
) -> Alarm | None:
    if not is_on:
        return None
    from mlserve.gate.alarm import Alarm

    alarm = Alarm(audit, policy.accept, policy.guarantee)
    if reset:
        alarm.reset(now())
    stack.callback(alarm.save)
    return alarm


gate = as_command(decide, CommandWithCommands)
gate.commands = {
    "calibrate": as_command(calibrate),
    "verify": as_command(verify),
}
