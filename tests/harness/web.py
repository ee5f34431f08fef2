"""Web applications, each run by a server that people run: uvicorn, Hypercorn, Flask's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from mlserve.testing.processes import stopping, wait_until
from tests.harness.echo import PHOTO

EXAMPLES = Path(__file__).parents[2] / "examples" / "web"


class WebServer:
    """A running web server, on a port that the system chose."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    @cached_property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`; waits until the server says that it listens."""
        return wait_until(self._read_url)

    def log(self) -> str:
        return self.log_path.read_text()

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, image: bytes = PHOTO, **options: Any) -> httpx.Response:
        """Post the bytes of an image, by default one that the echo backend accepts."""
        return httpx.post(self.url + path, content=image, timeout=30, **options)

    def has(self, metric: str, prefix: str = "/ml") -> bool:
        """Return whether the page of the metrics has that line."""
        return metric in self.get(f"{prefix}/metrics").text.splitlines()

    def _read_url(self) -> str | None:
        found = re.search(r"[Rr]unning on (http://127\.0\.0\.1:[1-9]\d*)", self.log())
        assert found or self.process.poll() is None, self.log()
        return found[1] if found else None


@contextmanager
def running(
    folder: Path, *argv: str, cwd: Path = EXAMPLES, env: Mapping[str, str] | None = None
) -> Iterator[WebServer]:
    """Run `python -m ARGV` in `cwd`, yield it at once, and stop it at the end."""
    log_path = folder / "web.log"
    # The applications lie in `cwd`. Output that is not flushed would not be seen in time.
    added = {"PYTHONPATH": str(cwd), "PYTHONUNBUFFERED": "1", **(env or {})}
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=cwd,
            env={**os.environ, **added},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
        stopping(process),
    ):
        yield WebServer(process, log_path)


def uvicorn(app: str, *options: str) -> tuple[str, ...]:
    """Return the command of uvicorn for that application."""
    return ("uvicorn", app, "--port", "0", *options)


def hypercorn(app: str, *options: str) -> tuple[str, ...]:
    """Return the command of Hypercorn for that application.

    By default it hangs up after 5 s without a request, for which a busy machine may stand still.
    """
    return ("hypercorn", app, "--bind", "127.0.0.1:0", "--keep-alive", "60", *options)


def flask(app: str) -> tuple[str, ...]:
    """Return the command of Flask's own server for that application."""
    return ("flask", "--app", app, "run", "--port", "0")
