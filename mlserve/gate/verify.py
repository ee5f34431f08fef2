"""Check audit files: whether a line was changed, removed, added or moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlserve.errors import UsageError
from mlserve.gate.chain import FIRST, BadLine, Line, read_line

_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at which line of which file."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "line": self.line, "what": self.what}


@dataclass(slots=True)
class Checked:
    """What a check found: the lines from `first` to `head`, and at most 20 faults.

    `torn` is the file, and the number of bytes, of a last line that a crash cut off: no decision
    was shown for it, and the next start of a gate removes it. `decisions` counts them by name, and
    `mended` the lines that were torn before. `has_head` is whether the wanted head was found; None
    if none was wanted.
    """

    first: Line | None = None
    head: Line | None = None
    lines: int = 0
    faults: list[Fault] = field(default_factory=list)
    torn: tuple[str, int] | None = None
    decisions: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    has_head: bool | None = None
    unreadable: int = 0
    """Lines since `head` that are no lines of a gate any more, and told already."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong; a torn last line is no fault."""
        return not self.faults and self.has_head is not False

    def to_json(self) -> dict[str, Any]:
        first, head, torn = self.first, self.head, self.torn
        return {
            "is_sound": self.is_sound,
            "lines": self.lines,
            "first": None if first is None else first.seq,
            "head": None if head is None else {"seq": head.seq, "sha256": head.sha256},
            "decisions": dict(self.decisions),
            "mended": self.mended,
            "torn": None if torn is None else {"file": torn[0], "bytes": torn[1]},
            "has_head": self.has_head,
            "faults": [fault.to_json() for fault in self.faults],
        }


def verify(files: Sequence[Path], head: str | None = None) -> Checked:
    """Check files of one audit, in the order of their lines, whatever order they are given in.

    `head` is the digest of a line that was noted elsewhere, which has to be among them: lines that
    were removed from the end leave no other trace. Raises UsageError for an unreadable file.
    """
    found = Checked(has_head=None if head is None else False)
    contents = sorted((_first_seq(file), str(file), file) for file in files)
    for number, (_, _, file) in enumerate(contents, start=1):
        _check(file, found, head, is_last=number == len(contents))
    return found


def _first_seq(file: Path) -> int:
    """Return the number of the first line that is one; 0 if there is none."""
    with _opened(file) as opened:
        for content in opened:
            with suppress(BadLine):
                return read_line(content).seq
    return 0


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file, which a running gate may just have renamed. Raises UsageError."""
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror or error}", hint="give audit files of a gate"
        ) from error


def _check(file: Path, found: Checked, head: str | None, *, is_last: bool) -> None:
    with _opened(file) as opened:
        for number, content in enumerate(opened, start=1):
            if not content.endswith(b"\n"):
                if is_last:
                    found.torn = (str(file), len(content))
                else:
                    _note(found, file, number, "the line is cut off, and others follow it")
                continue
            try:
                line = read_line(content)
            except BadLine as error:
                _note(found, file, number, str(error))
                found.lines += 1
                found.unreadable += 1
                continue
            _note(found, file, number, *_breaks(found, line))
            _count(found, line)
            if line.sha256 == head:
                found.has_head = True


def _breaks(found: Checked, line: Line) -> Iterable[str]:
    """Yield what is wrong between a line and the one before."""
    before = found.head
    if before is None:
        if line.seq == 1 and line.prev != FIRST:
            yield "it is numbered 1, but has a line before it"
        elif line.seq > 1 and line.data.get("kind") != "continued" and not found.unreadable:
            yield f"lines are missing before it: it is line {line.seq}, and no beginning of a file"
        return
    if line.seq == before.seq + 1 and line.prev == before.sha256:
        return
    missing = line.seq - before.seq - 1
    if missing > found.unreadable:
        missing -= found.unreadable
        yield f"{missing} missing before it: it is line {line.seq}, after line {before.seq}"
    elif missing < 0:
        yield f"it is added or in the wrong place: it is line {line.seq}, after line {before.seq}"
    elif not missing:
        yield "it does not follow the line before it: that one was replaced"


def _count(found: Checked, line: Line) -> None:
    if found.first is None:
        found.first = line
    found.head, found.unreadable = line, 0
    found.lines += 1
    if line.data.get("kind") == "decision":
        found.decisions[str(line.data.get("decision"))] += 1
    elif line.data.get("kind") == "mended":
        found.mended += 1


def _note(found: Checked, file: Path, number: int, *what: str) -> None:
    for each in what:
        if len(found.faults) < _MOST_FAULTS:
            found.faults.append(Fault(str(file), number, each))
