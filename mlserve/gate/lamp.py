"""What tells a decision to the line: a command that is run, and a serial port that gets a word."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mlserve.errors import MlserveError, UsageError, bounded, either, reason_of, shortened

DEFAULT_BAUD = 9600
_LONGEST_SAID = 500
_KILLED_WITHIN = 1.0
"""Seconds that a killed command has to be gone."""
_RATES = {
    int(name[1:]): getattr(termios, name)
    for name in dir(termios)
    if name.startswith("B") and name[1:].isdecimal() and name != "B0"
}
"""The speeds that the system has, in bits per second."""


class LampFailed(MlserveError):
    """A decision could not be told: the command failed, or the serial port did."""


class Lamp(Protocol):
    """Tells a decision, or raises LampFailed. `variables` say more about it, by name."""

    def tell(self, decision: str, variables: Mapping[str, str]) -> None: ...


class ExecLamp:
    """A command, run without a shell for each decision, which is its last argument.

    It has `seconds` to end, and is killed then, with what it started. What it prints goes to
    standard error. Raises UsageError for a command that cannot be read, or is not there.
    """

    def __init__(self, command: str, seconds: float) -> None:
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--exec {command!r}: {error}", hint="close the quotes") from error
        if not self._argv:
            raise UsageError("--exec is empty", hint="give the command that sets the lamp")
        if shutil.which(self._argv[0]) is None:
            raise UsageError(
                f"--exec {shortened(self._argv[0])}: there is no such program that can be run",
                hint="give its path, and make it executable (chmod +x)",
            )
        self._seconds = seconds

    def tell(self, decision: str, variables: Mapping[str, str]) -> None:
        """Run it. Raises LampFailed if it cannot be started, fails, or takes too long."""
        name = self._argv[0]
        try:
            process = subprocess.Popen(
                [*self._argv, decision],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output has the decisions alone
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise LampFailed(f"{name} cannot be run: {reason_of(error)}") from error
        try:
            code = process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            said = f"{name} did not end within {self._seconds:g} s"
            try:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(_KILLED_WITHIN)
            except (OSError, subprocess.TimeoutExpired) as error:
                # It runs as another user, as with sudo, or waits for a device.
                raise LampFailed(f"{said}, and cannot be killed: {reason_of(error)}") from error
            raise LampFailed(said) from None
        if code:
            raise LampFailed(bounded(f"{name} ended with {code}", _LONGEST_SAID))


class SerialLamp:
    """A serial port, 8 bits, no parity, 1 stop bit, no flow control; a word and a line feed each.

    Each has `seconds` to be taken. After a failure it is opened anew, so that a plug may be pulled
    and put back. Raises UsageError for what is not a serial port.
    """

    def __init__(self, device: Path, baud: int, seconds: float) -> None:
        if baud not in _RATES:
            usual = [str(rate) for rate in sorted(_RATES) if 1200 <= rate <= 115200]  # noqa: PLR2004
            raise UsageError(f"--baud {baud} is not a speed of this system", hint=either(usual))
        self._device = device
        self._baud = baud
        self._seconds = seconds
        self._fd = -1
        try:
            self._open()
        except (OSError, termios.error) as error:
            raise UsageError(
                f"{device} cannot be opened as a serial port: {_reason(error)}",
                hint="give its device, such as /dev/ttyUSB0, which your user may write to",
            ) from error

    def tell(self, decision: str, variables: Mapping[str, str]) -> None:
        """Send a decision, such as `ACCEPT`. Raises LampFailed if it is not taken in time."""
        try:
            if self._fd < 0:
                self._open()
            self._send(f"{decision.upper()}\n".encode("ascii"), time.monotonic() + self._seconds)
        except (OSError, termios.error) as error:
            self._drop()  # it may have been unplugged: the next decision opens it again
            raise LampFailed(f"{self._device} cannot be written: {_reason(error)}") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _drop(self) -> None:
        """Close the port without what it has not sent: a late word would be of another part."""
        if self._fd >= 0:
            with suppress(termios.error):
                termios.tcflush(self._fd, termios.TCOFLUSH)
        self.close()

    def _open(self) -> None:
        fd = os.open(self._device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISCHR(os.fstat(fd).st_mode) or not os.isatty(fd):
                raise OSError("it is not a serial port")
            _set_raw(fd, _RATES[self._baud])
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _send(self, data: bytes, until: float) -> None:
        while data:
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            left = until - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise TimeoutError("it takes no more bytes")
            data = data[os.write(self._fd, data) :]


def _set_raw(fd: int, rate: int) -> None:
    mode = termios.tcgetattr(fd)
    mode[0] = 0  # input: no translation, no software flow control
    mode[1] = 0  # output: as it is
    mode[2] = termios.CS8 | termios.CREAD | termios.CLOCAL  # 8N1, modem lines do not matter
    mode[3] = 0  # no line editing, no echo
    mode[4] = mode[5] = rate
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def _reason(error: OSError | termios.error) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error.args[-1])
