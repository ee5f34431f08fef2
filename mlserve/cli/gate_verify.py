"""`mlserve gate verify`: whether audit files are as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlserve.cli.output import OutputFormat, OutputOption, note, print_json, say
from mlserve.errors import ExitCode, UsageError, counted
from mlserve.paths import state_dir

if TYPE_CHECKING:
    from mlserve.gate.verify import Checked

_DIGEST_DIGITS = 64


def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="Audit files of one gate, in any order. A file that is still written to stands "
            "for those too that were full before it, in its folder. Default: the one that a gate "
            "writes without --audit.",
            show_default=False,
        ),
    ] = None,
    *,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="The digest of a line that was noted elsewhere, as this command prints it: it has "
            "to be there. Lines that are missing at the end are seen only by that.",
        ),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Check that no line of an audit was changed, removed, added or moved.

    Each line holds the digest of the line before. A last line that a crash cut off is no fault: its
    decision was never told, and the next start of the gate removes it.

    Exit codes: 0 nothing is wrong, 8 something is.

    For example:

    mlserve gate verify audit.jsonl
    """
    if head is not None and not _is_digest(head):
        raise UsageError(
            f"--head {head} is not a SHA-256 digest", hint="give the 64 digits that it printed"
        )
    found = _checked(files or [usual_audit()], head)
    if output is OutputFormat.JSON:
        print_json(found.to_json())
    else:
        _print(found, head)
    if not found.is_sound:
        raise typer.Exit(int(ExitCode.DIFFERENT))


def usual_audit() -> Path:
    """Return the audit file of a gate that is told no other."""
    return state_dir() / "gate" / "audit.jsonl"


def _checked(files: Sequence[Path], head: str | None) -> Checked:
    """Check the files; again if a gate has begun a new one meanwhile, of which some were missed."""
    from mlserve.gate.verify import verify as check

    while True:
        listed = _with_full(files)
        found = check(listed, head)
        if found.is_sound or listed == _with_full(files):
            return found


def _with_full(files: Sequence[Path]) -> list[Path]:
    """Return the files, and those that were full before each of them. Raises UsageError."""
    from mlserve.gate.audit_file import full_files

    try:
        found = {each.resolve(): each for file in files for each in (*full_files(file), file)}
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    return list(found.values())


def _is_digest(text: str) -> bool:
    return len(text) == _DIGEST_DIGITS and all(char in "0123456789abcdef" for char in text)


def _print(found: Checked, head: str | None) -> None:
    for fault in found.faults:
        say(str(fault))
    if found.has_head is False:
        say(f"the line {head} is missing")
    if found.first is not None and found.first.seq > 1:
        note(f"note: it begins with line {found.first.seq}; the lines before are not checked")
    if found.torn is not None:
        file, size = found.torn
        note(
            f"note: a crash cut off the last line of {file} ({counted(size, 'byte')} are left); "
            "the next start of the gate removes it"
        )
    if found.mended:
        note(f"note: {counted(found.mended, 'line')} cut off by a crash were removed before")
    if not found.is_sound:
        return
    decisions = ", ".join(f"{count} {name}" for name, count in sorted(found.decisions.items()))
    say(f"nothing is wrong: {counted(found.lines, 'line')}" + (decisions and f" ({decisions})"))
    if found.head is not None:
        say(f"head: line {found.head.seq}, {found.head.sha256}")
