"""The gate as a command: to whom it is put, and what its audit holds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from mlserve.errors import UsageError
from mlserve.gate.audit_file import family, lines_in
from mlserve.gate.verify import verify

ACCEPT = ("--accept", "ok", "--min-score", "0.9", "--timeout", "20")


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
