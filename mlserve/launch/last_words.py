"""Why a server that ended says that it ended, read from the end of its log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlserve.artifact import json_of

_OURS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z ([A-Z]+) (.*)")
"""A line of mlserve's server in words: time, level, message."""
_GLOG = re.compile(r".*: [EF] \S+\] (.*)")
"""A line of TensorFlow's with the level error or fatal: `<time>: E file.cc:37] message`."""
_HINT = "hint: "
_WRONG = ("ERROR", "CRITICAL")
_OTHER_ERROR = re.compile(r"\b\w*error\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LastWords:
    """The last error in a log, and the hint that came with it."""

    message: str
    hint: str | None


@dataclass(slots=True)
class _Entry:
    level: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The message; of one with a traceback, the exception that it ends with."""
        has_traceback = any(line.startswith("Traceback (") for line in self.lines)
        return self.lines[-1] if has_traceback else " ".join(self.lines)


def last_words(lines: Sequence[str]) -> LastWords | None:
    """The last error that these lines of a log tell; None when none is told.

    Lines of mlserve's server are known in both its formats; of another program's the last line
    that is marked as an error counts.
    """
    entries = _entries(lines)
    for index in reversed(range(len(entries))):
        entry = entries[index]
        if entry.level in _WRONG and not entry.text.startswith(_HINT):
            after = entries[index + 1].text if index + 1 < len(entries) else ""
            hint = after.removeprefix(_HINT) if after.startswith(_HINT) else None
            return LastWords(entry.text, hint)
    return _of_other_program(lines)


def _entries(lines: Sequence[str]) -> list[_Entry]:
    """What mlserve's server logged; lines that follow an entry, as a traceback does, belong to it.

    In JSON an entry holds its traceback itself.
    """
    entries: list[_Entry] = []
    for line in lines:
        ours = _OURS.fullmatch(line)
        data = _object(line)
        if ours:
            entries.append(_Entry(ours[1], [ours[2]]))
        elif data is not None:
            more = str(data.get("exception", "")).splitlines()
            entries.append(_Entry(str(data.get("level")), [str(data["message"]), *more]))
        elif entries:
            entries[-1].lines.append(line.strip() if line.startswith(" ") else line)
    return entries


def _object(line: str) -> dict[str, object] | None:
    if not line.startswith('{"ts": '):
        return None
    try:
        data = json_of(line)
    except ValueError:
        return None  # a line that was cut off
    return data if isinstance(data, dict) and "message" in data else None


def _of_other_program(lines: Sequence[str]) -> LastWords | None:
    for line in reversed(lines):
        glog = _GLOG.fullmatch(line)
        if glog or _OTHER_ERROR.search(line):
            return LastWords(glog[1] if glog else line.strip(), None)
    return None
