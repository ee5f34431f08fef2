"""Records the first commands of the README in a real terminal, as `docs/images/terminal.svg`.

The commands are those of the README's first bash block. They run as they stand, in a
pseudo-terminal and an empty home, and what they leave on the screen is drawn: progress that a
command erases is not there, and the home's path reads `~`. `make terminal` runs this.
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
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
COLUMNS, ROWS = 120, 40
_MOVES = re.compile(r"(\n|\r|\x1b\[\d*[AK]|\x1b\[\?25[lh])")
_LIGHT = TerminalTheme(
    (250, 250, 248),
    (36, 41, 47),
    [
        *((36, 41, 47), (207, 34, 46), (17, 99, 41), (77, 45, 0)),
        *((9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)),
    ],
)
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<!-- made by docs/record_terminal.py -->
<style>
.{unique_id}-matrix {{
font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#fafaf8" stroke="#d0d7de" rx="8" width="100%" height="100%"/>
<g transform="translate(20, 26)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def commands() -> list[str]:
    """The commands of the README's first bash block."""
    block = re.search(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    if block is None:
        raise SystemExit("the README has no bash block")
    return block[1].splitlines()


def run(command: str, env: dict[str, str]) -> str:
    """Run a command in a terminal; return what it writes there."""
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
    except OSError:  # how Linux says that the other end is closed
        pass
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{command} ended with {code}:\n{written.decode()}")
    return written.decode()


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


def _record() -> Text:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = ("MLSERVE_", "XDG_", "NO_COLOR", "COLUMNS")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    with tempfile.TemporaryDirectory() as home:
        env = {**inherited, "HOME": home, "PATH": path, "TERM": "xterm-256color"}
        shown = Text()
        try:
            for command in commands():
                shown.append("$ ", "green").append(command, "bold").append("\n")
                left = screen(run(command, env)).replace(home, "~")
                shown.append_text(Text.from_ansi(left)).append("\n")
        finally:
            down = [sys.executable, "-m", "mlserve", "down", "--all"]
            subprocess.run(down, env=env, check=True, stdout=subprocess.DEVNULL)
    shown.rstrip()
    shown.expand_tabs(8)
    return shown


def main() -> None:
    """Write the picture."""
    shown = _record()
    if "a default port is taken" in shown.plain:
        raise SystemExit("a default port is taken: stop what listens there, and record again")
    width = max(line.cell_len for line in shown.split()) + 2
    console = Console(record=True, width=width, file=sys.stdout, force_terminal=True)
    console.print(shown)
    svg = console.export_svg(theme=_LIGHT, code_format=_SVG, unique_id="terminal")
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    main()
