"""Debian's Chromium, headless: pages as it lays them out, as numbers and as pictures.

    chromium --headless --screenshot

A page is looked at in a frame, whose width and height are those of a screen: a window of Chromium
cannot be as narrow as a telephone. The frame's document has the page as it is; what measures it is
outside.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--force-color-profile=srgb"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever a page asks for, it does not get
)
_SECONDS = 60
_MEASURING = (Path(__file__).parent / "measuring.js").read_text()
_FOUND = re.compile(r'<pre id="found">(.*?)</pre>', re.DOTALL)


def chromium() -> str | None:
    """The browser's executable; None if none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Layout:
    """One page at one width, as `measuring.js` found it."""

    found: Mapping[str, Any]

    @property
    def width(self) -> float:
        """How wide the page would have to be to show everything."""
        return float(self.found["width"])

    @property
    def height(self) -> int:
        """How high the whole page is."""
        return int(self.found["height"])

    @property
    def problems(self) -> list[str]:
        """What lies outside the page, or on something else, in words."""
        return list(self.found["problems"])


def layouts(pages: Mapping[str, str], width: int) -> dict[str, Layout]:
    """Lay the pages out in frames of that width, and measure them."""
    frames = "\n".join(
        f'<iframe name="{escape(name)}" width="{width}" height="900" srcdoc="{escape(text)}">'
        "</iframe>"
        for name, text in pages.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.html"
        path.write_text(_wrapped(f'<pre id="found"></pre>{frames}<script>{_MEASURING}</script>'))
        dumped = _run("--dump-dom", "--virtual-time-budget=20000", path.as_uri())
    found = _FOUND.search(dumped)
    assert found, f"nothing was measured:\n{dumped[:2000]}"
    return {name: Layout(each) for name, each in json.loads(unescape(found[1])).items()}


def screenshot(page: str, into: Path, width: int, height: int, *, is_dark: bool = False) -> None:
    """Write a PNG of the page, at that width; its first `height` pixels."""
    frame = (
        f'<iframe width="{width}" height="{height}" style="border:0;display:block" '
        f'srcdoc="{escape(page)}"></iframe>'
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.html"
        path.write_text(_wrapped(frame))
        # 0 is dark, and 1 light, as in Blink's `PreferredColorScheme`.
        scheme = f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"
        size = f"--window-size={max(500, width)},{height}"
        _run(f"--screenshot={into.absolute()}", scheme, size, path.as_uri())
    from PIL import Image

    with Image.open(into) as image:
        image.crop((0, 0, width, height)).save(into)


def _wrapped(body: str) -> str:
    return (
        '<!doctype html><html><head><meta charset="utf-8"><style>body{margin:0}iframe{border:0}'
        f"</style></head><body>{body}</body></html>"
    )


def _run(*arguments: str) -> str:
    """Run the browser to its end, with a profile of its own; return what it prints."""
    executable = chromium()
    assert executable is not None
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [executable, *_OPTIONS, f"--user-data-dir={profile}", *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
