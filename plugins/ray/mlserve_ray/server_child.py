"""The server of a replica: mlserve's own server as a child process, which ends with the replica."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence

from mlserve_ray.parent_death import dying_with_us

_LISTENING = re.compile(r"listening grpc=(\S+?):(\d+) rest=([^\s\"]+?):(\d+)[\s\"]")
_MOST_LINES = 2000
"""Log lines that are kept until they are sent on."""
_LAST_ERRORS = 5


class ServerChild:
    """One life of the server's process. Made on a thread that lives as long as the replica."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Start `argv`. Raises OSError."""
        self.started = time.monotonic()
        self.grpc_port = 0
        self.rest_port = 0
        self.errors: deque[str] = deque(maxlen=_LAST_ERRORS)
        """The last lines that tell of an error or give a hint."""
        self._lines: deque[str] = deque()
        self._lost = 0
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            dying_with_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name="mlserve-log")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, below 0 for a signal; None while it runs."""
        return self._process.poll()

    def take_lines(self) -> tuple[list[str], int]:
        """Return its log lines since the last call, and how many more there were."""
        with self._lock:
            lines, lost = list(self._lines), self._lost
            self._lines.clear()
            self._lost = 0
        return lines, lost

    def stop(self, timeout: float) -> None:
        """Have it drain and end; kill it after `timeout` seconds."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(1.0)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def wait_log_end(self) -> None:
        """Wait until the log of an ended process is read."""
        self._reader.join(1.0)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._take(line)

    def _take(self, line: str) -> None:
        found = _LISTENING.search(line)
        if found and not self.rest_port:
            self.grpc_port, self.rest_port = int(found[2]), int(found[4])
        text = line.rstrip("\n")
        if " ERROR " in text or '"ERROR"' in text or '"error"' in text:
            self.errors.append(text)
        with self._lock:
            if len(self._lines) < _MOST_LINES:
                self._lines.append(text)
            else:
                self._lost += 1
