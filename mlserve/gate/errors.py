"""What stops a gate. Each has an exit code that no decision has."""

from __future__ import annotations

from typing import ClassVar

from mlserve.errors import ExitCode, MlserveError


class AuditStopped(MlserveError):
    """The audit file cannot be written, so that nothing may be decided."""

    exit_code: ClassVar[ExitCode] = ExitCode.NO_AUDIT


class AuditBroken(AuditStopped):
    """The audit file does not end as a gate left it, so that no line may follow."""


class Alarmed(MlserveError):
    """The scores no longer come as they did, and the user wants the gate to stop then."""

    exit_code: ClassVar[ExitCode] = ExitCode.ALARM
