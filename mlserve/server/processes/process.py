"""One runner process, seen from the server: started, loaded, asked, and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from mlserve.errors import ModelLoadFailed
from mlserve.server.engine.work import Codec
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.channel import Note, Packet, pair
from mlserve.server.processes.messages import Failed, Load, Loaded
from mlserve.settings import LogFormat
from mlserve.system import signal_name

_log = logging.getLogger(__name__)
_ENDS_WITHIN = 5.0
"""Seconds that a process whose connection is closed has before it is killed."""


def _nothing() -> None:
    pass


class RunnerProcess:
    """A process that has the Runner of one version.

    It is started and loaded on any thread; from `attach` on, it belongs to the event loop.
    """

    _life: int | None

    def __init__(
        self, source: ModelSpec, version: int, log_format: LogFormat, nice: int = 0
    ) -> None:
        """Start the process, which begins to load. Raises OSError.

        It gives way to others for a CPU by `nice`.
        """
        with ExitStack() as undo, ExitStack() as only_theirs:
            self.channel, theirs, memory = pair()
            undo.callback(self.channel.close)
            only_theirs.callback(theirs.close)
            life, self._life = os.pipe()
            undo.callback(self._let_die)
            only_theirs.callback(os.close, life)
            arguments = [str(theirs.fileno()), str(memory), str(life), log_format.value]
            self._child = subprocess.Popen(
                # -P: a user's module in the current folder must not shadow one of ours.
                [sys.executable, "-P", "-m", "mlserve.server.processes.child", *arguments],
                pass_fds=(theirs.fileno(), memory, life),
                stdin=subprocess.DEVNULL,
            )
            undo.pop_all()
        if nice:  # before it starts threads, which take it over
            with suppress(OSError):  # it has ended already, or the system forbids it
                os.setpriority(os.PRIO_PROCESS, self._child.pid, nice)
        self.started_at = time.monotonic()
        self.early_deaths = 0
        """How many processes in a row, the last of them in its place, died young."""
        self.to_load = Load(source, version, _codec_modules())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_copying = False
        self._on_message: Callable[[RunnerProcess, Any], None] = _unexpected
        self._on_end: Callable[[RunnerProcess], None] = _unexpected

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def load(self) -> Loaded:
        """Wait until the version is loaded. Raises its error, and ModelLoadFailed if it dies."""
        try:
            self.channel.send(self.to_load)
            answer = self.channel.receive()
        except (EOFError, OSError) as error:
            raise ModelLoadFailed(
                f"version {self.to_load.version} of {self.to_load.source.model} is not served: its "
                f"process ended while it was loading ({self.cause()})",
                hint="the server's log has what it wrote; a process that runs out of memory is "
                "ended by signal 9",
            ) from error
        if isinstance(answer, Failed):
            raise answer.error
        assert isinstance(answer, Loaded)
        return answer

    def attach(
        self,
        on_message: Callable[[RunnerProcess, Any], None],
        on_end: Callable[[RunnerProcess], None],
    ) -> None:
        """Have the running event loop pass on the process's messages, and its end."""
        self._on_message, self._on_end = on_message, on_end
        self.channel.socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.channel.socket, self._hear)

    def tell(self, packet: Packet, then: Callable[[], None] = _nothing) -> None:
        """Send a packet, whose long buffers are written on a thread first.

        Calls `then` once it is sent, unless the process has ended.
        """

        def written(_: object) -> None:
            if self._tell(packet):
                then()

        if packet.is_long:
            self._apart(self.channel.write, packet, written)
            return
        try:
            self.channel.write(packet)
        except OSError as error:
            self._give_up(error)
        else:
            self._tell(packet)

    def cause(self) -> str:
        """Wait for the end of the process, and return what ended it."""
        try:
            code = self._child.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        finally:
            self._let_die()
        if code >= 0:
            return f"exit code {code}"
        return f"signal {-code}, {signal_name(-code)}"

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    def detach(self) -> None:
        """Close the connection, on the event loop: the process ends once it is idle."""
        if self._loop is not None:
            self._loop.remove_reader(self.channel.socket)
            self._loop = None
        if self._is_copying:
            self.channel.hang_up()
        else:
            self.channel.close()

    def _let_die(self) -> None:
        if self._life is not None:
            os.close(self._life)
            self._life = None

    def _hear(self) -> None:
        try:
            note = self.channel.hear()
        except BlockingIOError:
            return
        except EOFError:
            self._end()
            return
        if note.is_long:
            self._apart(self.channel.read, note, self._pass_on)
            return
        try:
            message = self.channel.read(note)
        except Exception as error:  # noqa: BLE001 - the call must not keep its slot for ever
            self._give_up(error)
        else:
            self._pass_on(message)

    def _pass_on(self, message: Any) -> None:
        self._on_message(self, message)

    def _tell(self, packet: Packet) -> bool:
        try:
            self.channel.tell(packet)
        except OSError:
            self._end()
            return False
        return True

    def _give_up(self, error: Exception) -> None:
        """End a process that cannot be told something, or understood: for want of memory, say."""
        _log.error("process %d: a message cannot be copied (%r)", self.pid, error)
        self._end()

    def _end(self) -> None:
        if self._loop is not None:
            self._on_end(self)

    def _apart(
        self, work: Callable[[Any], Any], given: Note | Packet, then: Callable[..., None]
    ) -> None:
        """Copy long buffers on a thread; nothing else is heard from the process meanwhile."""
        loop = self._loop
        assert loop is not None
        loop.remove_reader(self.channel.socket)
        self._is_copying = True

        def done(copied: asyncio.Future[Any]) -> None:
            self._is_copying = False
            if self._loop is None:  # detached meanwhile
                self.channel.close()
                return
            loop.add_reader(self.channel.socket, self._hear)
            try:
                result = copied.result()
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(error)
            else:
                then(result)

        loop.run_in_executor(None, work, given).add_done_callback(done)


def _codec_modules() -> list[str]:
    """Return the modules of core that have a codec, as this server has imported them."""
    found = set[str]()
    kinds: list[type[Any]] = [Codec]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.__module__)
    return sorted(name for name in found if name.startswith("mlserve."))


def _unexpected(*_: Any) -> None:
    raise AssertionError("the process is not attached")
