"""Films the first commands of the README in a real terminal, as `docs/images/terminal.svg`.

The commands are those of the README's first bash block. They run as they stand, in a
pseudo-terminal and an empty home, whose path reads `~`. The film shows what the terminal showed,
and when: a clock in its corner has the true time, and waits are shortened to `LONGEST_WAIT`. Where
nothing moves (a printed page, a reader who wants no motion), the last picture stands.
`make pictures` runs this.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
COLUMNS, ROWS = 120, 40
LONGEST_WAIT = 0.7
"""Seconds of the film in which nothing changes."""
_AFTER_A_COMMAND, _AT_THE_END = 1.2, 6.0
_FRAMES_A_SECOND = 5
_MOVES = re.compile(r"(\n|\r|\x1b\[\d*[AK]|\x1b\[\?25[lh])")
_SIZE, _WIDTH, _LINE = 20.0, 12.04, 24.4
"""Pixels: of the type, of a character, of a line."""
_EDGE = 22.0
_STYLE = """\
text { font: 20px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre; fill: #24292f; }
.b { font-weight: bold } .green { fill: #116329 } .red { fill: #cf222e } .yellow { fill: #4d2d00 }
.blue { fill: #0969da } .magenta { fill: #8250df } .cyan { fill: #1b7c83 } .dim { fill: #6e7781 }
.gone { visibility: hidden }
@media (prefers-reduced-motion: no-preference) { text[style] { animation-duration: %gs;
  animation-iteration-count: infinite; animation-timing-function: steps(1, end); } }
"""
_COLOURS = ("dim", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
"""The colours of a terminal, by their numbers; those from 8 on are the bright ones."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stood on the screen from so many seconds after the start on: lines, with their codes.

    The `pause` after it is shown in full, however short the true one was.
    """

    at: float
    lines: tuple[str, ...]
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A line that stands in that row of the film, from one moment of it to another, in seconds."""

    row: int
    text: str
    since: float
    until: float


def commands() -> list[str]:
    """The commands of the README's first bash block."""
    block = re.search(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    if block is None:
        raise SystemExit("the README has no bash block")
    return block[1].splitlines()


def run(command: str, env: dict[str, str]) -> Iterator[str]:
    """Run a command in a terminal; yield all that it has written there, whenever there is more."""
    pid, terminal = pty.fork()
    if pid == 0:
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "-c", command], env)  # noqa: S606, S607
    written = b""
    try:
        while part := os.read(terminal, 65536):
            written += part
            yield written.decode(errors="ignore")
    except OSError:  # how Linux says that the other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command} ended with {code}:\n{written.decode()}")


def screen(written: str) -> str:
    """Return what stays on a terminal, colours and all, after what a command has written.

    A line is only written over once it has been erased, and a progress bar goes up to erase itself.
    """
    lines, row = [""], 0
    for part in _MOVES.split(written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[row] = ""
        elif not _MOVES.fullmatch(part):
            lines[row] += part
    return "\n".join(lines).rstrip("\n") + "\n"


def recorded() -> list[Frame]:
    """Run the commands in an empty home; return what was seen."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = ("MLSERVE_", "XDG_", "NO_COLOR", "COLUMNS")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory() as home:
        env = {**inherited, "HOME": home, "PATH": path, "TERM": "xterm-256color"}
        began, above = time.monotonic(), ()
        try:
            for command in commands():
                above = (*above, f"\x1b[32m$\x1b[0m \x1b[1m{command}\x1b[0m")
                frames.append(Frame(time.monotonic() - began, above, LONGEST_WAIT))
                left = ""
                for written in run(command, env):
                    left = screen(written).replace(home, "~").rstrip("\n")
                    frames.append(Frame(time.monotonic() - began, (*above, *left.split("\n"))))
                above = (*above, *left.split("\n"), "")
                frames.append(Frame(time.monotonic() - began, above[:-1], _AFTER_A_COMMAND))
        finally:
            down = [sys.executable, "-m", "mlserve", "down", "--all"]
            subprocess.run(down, env=env, check=True, stdout=subprocess.DEVNULL)
    return frames


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """Leave out frames that follow too soon and are soon replaced, and repetitions."""
    kept: list[Frame] = []
    for frame, following in pairwise((*frames, Frame(frames[-1].at + 60.0, ()))):
        since = frame.at - kept[-1].at if kept else 1.0
        is_brief = max(since, following.at - frame.at) < 1 / _FRAMES_A_SECOND
        if frame.pause or not (is_brief or kept[-1].lines == frame.lines):
            kept.append(frame)
    return kept


def film(frames: Sequence[Frame]) -> tuple[list[Shown], float]:
    """Return the lines of the film, and its seconds."""
    shown: list[Shown] = []
    standing: dict[int, tuple[str, float]] = {}
    now = 0.0
    for frame, following in pairwise((*frames, Frame(frames[-1].at + 60.0, ()))):
        clock = f"{int(frame.at) // 60}:{int(frame.at) % 60:02}"
        lines = {-1: clock, **{row: line for row, line in enumerate(frame.lines) if line}}
        for row in [row for row in standing if lines.get(row) != standing[row][0]]:
            text, since = standing.pop(row)
            shown.append(Shown(row, text, since, now))
        for row, text in lines.items():
            standing.setdefault(row, (text, now))
        now += frame.pause or min(following.at - frame.at, LONGEST_WAIT)
    end = now + _AT_THE_END
    shown += [Shown(row, text, since, end) for row, (text, since) in standing.items()]
    return sorted(shown, key=lambda one: (one.row, one.since)), end


def picture(shown: Sequence[Shown], seconds: float) -> str:
    """Return the film as an SVG that moves without a script."""
    columns = max(Text.from_ansi(one.text).cell_len for one in shown)
    width = columns * _WIDTH + 2 * _EDGE
    height = (max(one.row for one in shown) + 1) * _LINE + 2 * _EDGE
    times = {(one.since, one.until): "" for one in shown}
    rules = []
    for number, (since, until) in enumerate(times):
        times[since, until] = name = f"t{number}"
        steps = [f"{100 * since / seconds:.2f}% {{ visibility: visible }}"]
        if since > 0:
            steps.insert(0, "0% { visibility: hidden }")
        if until < seconds:
            steps.append(f"{100 * until / seconds:.2f}%, 100% {{ visibility: hidden }}")
        else:
            steps.append("100% { visibility: visible }")
        rules.append(f"@keyframes {name} {{ {' '.join(steps)} }}")
    body = "\n".join(_text(one, times[one.since, one.until], width, seconds) for one in shown)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" xmlns="http://www.w3.org/2000/svg">\n'
        "<!-- made by docs/film.py -->\n"
        f"<style>\n{_STYLE % seconds}{chr(10).join(rules)}\n</style>\n"
        '<rect fill="#fafaf8" stroke="#d0d7de" rx="8" width="100%" height="100%"/>\n'
        f"{body}\n</svg>\n"
    )


def _text(one: Shown, name: str, width: float, seconds: float) -> str:
    gone = ' class="gone"' if one.until < seconds else ""
    if one.row < 0:
        x, y = f'x="{width - _EDGE:.0f}" text-anchor="end"', _EDGE + _SIZE * 0.4
        spans = f'<tspan class="dim">{one.text}</tspan>'
    else:
        x, y = f'x="{_EDGE:.0f}"', _EDGE + one.row * _LINE + _SIZE
        spans = _spans(Text.from_ansi(one.text))
    return f'<text {x} y="{y:.1f}"{gone} style="animation-name: {name}">{spans}</text>'


def _spans(text: Text) -> str:
    """Return a line's text, its colours as classes."""
    parts = []
    for part in text.divide(sorted({at for span in text.spans for at in (span.start, span.end)})):
        names = " ".join(sorted({name for span in part.spans for name in _classes(span.style)}))
        words = escape(part.plain)
        parts.append(f'<tspan class="{names}">{words}</tspan>' if names and words else words)
    return "".join(parts)


def _classes(style: Style | str) -> Iterator[str]:
    if isinstance(style, Style):
        if style.bold:
            yield "b"
        if style.dim:
            yield "dim"
        if style.color is not None and style.color.number is not None:
            yield _COLOURS[style.color.number % len(_COLOURS)]


def main() -> None:
    """Write the film."""
    frames = recorded()
    if any("a default port is taken" in line for line in frames[-1].lines):
        raise SystemExit("a default port is taken: stop what listens there, and record again")
    PICTURE.write_text(picture(*film(thinned(frames))))


if __name__ == "__main__":
    main()
