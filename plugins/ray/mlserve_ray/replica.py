"""A replica: mlserve's own server on a node of the cluster, watched, and told what to serve.

`Replica` is what Ray Serve places, checks and ends. Its work is done by one thread, `Keeper`, which
lives as long as the replica: it starts the server's process, starts it again when it dies, reports
to the roster twice a second, and does what the roster answers. Requests go to the server directly.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlserve.background import start_on_daemon_thread
from mlserve.errors import ExitCode, MlserveError, ModelLoadFailed, Unavailable
from mlserve.wire.replicas import ReplicaVersion
from mlserve_ray.artifacts import Absent, Nearby
from mlserve_ray.folders import own_folder
from mlserve_ray.reports import (
    Answer,
    Load,
    Offer,
    ReplicaState,
    Report,
    Versions,
)
from mlserve_ray.scrape import Asked, NoAnswer
from mlserve_ray.server_child import ServerChild
from mlserve_ray.view import View

_log = logging.getLogger(__name__)
_ROUND = 0.1
"""Seconds between two looks at the process."""
_REPORT_EVERY = 0.5
_LOAD_EVERY = 1.0
_SILENT_FOR = 10.0
"""Seconds without an answer after which a server that runs is killed and started again."""
_SHORT_LIFE = 20.0
"""Seconds; a server that has lived longer is started again at once."""
_MOST_SHORT_LIVES = 3
"""Deaths in a row, each after a short life, that the replica itself does not outlive."""
_LET_GO_WITHIN = 2.0
"""Seconds that the ingress has to turn to other replicas before this one drains."""
FRONT_LEASE = 300.0
"""Seconds without a front after which the replicas end."""
_FETCH_AGAIN_SECONDS = 5.0
_LAST_SECONDS = 5.0
"""Seconds that the server has to end after its drain."""


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What every replica of a server is told when it is made.

    `flags` are those of `mlserve.server`, without its folder and ports; `files` are the contents of
    files that it is given by the name of their setting. `host` None is the node's own address.
    `is_pinned`: it follows its pin, as no versions were named. `slots` is how many requests it runs
    at once. `drain_timeout` is in seconds.
    """

    server: str
    model: str
    flags: tuple[str, ...]
    files: Mapping[str, bytes]
    token: bytes | None
    slots: int
    is_pinned: bool
    drain_timeout: float
    host: str | None = None


class Roster(Protocol):
    """The roster, as a replica sees it. Both raise if it cannot be reached."""

    def report(self, report: Report, lines: Sequence[str], lost: int) -> Answer:
        """Report, and return what is wanted."""

    def leave(self, replica: str, lines: Sequence[str]) -> None:
        """Say that the replica has ended."""


class Keeper:
    """Keeps the server of one replica running. Methods with `_` are for its own thread."""

    def __init__(
        self,
        plan: ReplicaPlan,
        replica: str,
        address: str,
        roster: Callable[[], Roster],
        get: Callable[[Any], bytes],
        end_all: Callable[[], None] = lambda: None,
    ) -> None:
        """`end_all` ends all replicas of the server, which it does once nobody can reach them."""
        self._end_all = end_all
        self._front_at = time.monotonic()
        self._plan = plan
        self._id = replica
        self._node = f"{socket.gethostname()} ({address})"
        self._host = plan.host or address
        self._connect = roster
        self._roster: Roster | None = None
        self._nearby = Nearby(plan.model, self._node, get)
        self._folder = own_folder("mlserve-replica")
        self._view = View(self._folder / plan.model, is_pinned=plan.is_pinned)
        self._wanted: Versions = ()
        self._offers: dict[int, Offer] = {}
        self._child: ServerChild | None = None
        self._asked: Asked | None = None
        self._versions: tuple[ReplicaVersion, ...] = ()
        self._load = Load()
        self._load_at = 0.0
        self._reported_at = 0.0
        self._answered_at = 0.0
        self._short_lives = 0
        self._may_start_at = 0.0
        self._notes: list[str] = []
        self._fetches: dict[int, Future[Path]] = {}
        self._may_fetch_at = 0.0
        self._refused: dict[int, MlserveError] = {}
        self._absent: set[int] = set()
        self._state = ReplicaState.STARTING
        self._error: MlserveError | None = None
        self._exit_code = 0
        self._is_ending = threading.Event()
        self._may_leave = False
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlserve-keeper")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_settled(self) -> None:
        """Wait until the server is ready. Raises the error that keeps it from that."""
        self._settled.wait()
        self.require_alive()

    def require_alive(self) -> None:
        """Raise the error for which Ray Serve should make another replica in place of this one."""
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise Unavailable(f"the thread of the replica {self._id} has ended", hint="a bug")

    @property
    def load(self) -> Load:
        """What its server has to do."""
        return self._load

    def end(self) -> None:
        """Have it leave the ingress, drain and end; return when the server is gone."""
        self._is_ending.set()
        self._settled.set()
        if self._thread.is_alive():
            self._thread.join(self._plan.drain_timeout + _LET_GO_WITHIN + 2 * _LAST_SECONDS)

    def _run(self) -> None:
        try:
            while not self._is_ending.is_set() and self._error is None:
                self._look()
                self._is_ending.wait(_ROUND)
            self._leave()
        except Exception as error:
            self._error = Unavailable(f"the replica {self._id} failed: {error!r}")
            _log.exception("the replica %s failed", self._id)
            raise
        finally:
            if self._child is not None:
                self._child.stop(0.0)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._settled.set()

    def _look(self) -> None:
        """One round: the process, what it says, the report, and what is wanted."""
        self._check_child()
        now = time.monotonic()
        if self._child is not None and self._child.rest_port:
            self._ask(now)
        if now - self._reported_at >= _REPORT_EVERY or self._is_news():
            self._reported_at = now
            self._report()
            # A roster that is slow to answer must not make the server look silent.
            self._answered_at += time.monotonic() - now
            self._end_without_a_front(now)
        if self._wanted:
            self._serve_wanted()
        if self._view.wanted and self._child is None and now >= self._may_start_at:
            self._start()

    # The process

    def _start(self) -> None:
        self._child = ServerChild(self._argv())
        self._asked = None
        self._versions = ()
        self._answered_at = time.monotonic()

    def _argv(self) -> list[str]:
        plan = self._plan
        argv = [sys.executable, "-P", "-m", "mlserve.server", *plan.flags]
        argv += ["--base-path", str(self._view.path), "--poll-seconds=0.25"]
        argv += ["--host", self._host, "--grpc-port=0", "--rest-port=0"]
        for setting, content in plan.files.items():
            path = self._folder / setting
            if not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            argv.append(f"--{setting.replace('_', '-')}={path}")
        return argv

    def _check_child(self) -> None:
        child = self._child
        if child is None:
            return
        code, now = child.exit_code, time.monotonic()
        if code is None:
            has_hung = self._state is ReplicaState.READY and now - self._answered_at > _SILENT_FOR
            if has_hung:
                self._note(f"the server did not answer for {_SILENT_FOR:g} s and is killed")
                child.kill()
            return
        self._state = ReplicaState.STARTING
        child.wait_log_end()
        self._note(f"the server (pid {child.pid}) ended with {_said(code)}")
        was_short = now - child.started < _SHORT_LIFE
        self._short_lives = self._short_lives + 1 if was_short else 0
        is_wrong = not self._settled.is_set() and code > 0
        if is_wrong or self._short_lives >= _MOST_SHORT_LIVES:
            self._fail(child, code)
            return
        self._may_start_at = now + (0.5 * self._short_lives if self._short_lives > 1 else 0.0)
        self._take_lines(child)
        self._child = self._asked = None

    def _fail(self, child: ServerChild, code: int) -> None:
        reason = _reason(child.errors) or f"its server ended with {_said(code)}"
        self._give_up(ModelLoadFailed(reason), code if code > 0 else int(ExitCode.UNAVAILABLE))

    def _give_up(self, error: MlserveError, exit_code: int) -> None:
        """Have Ray Serve make another replica; the next report, which is the last one, says why."""
        self._error = error
        self._exit_code = exit_code
        self._state = ReplicaState.FAILED

    # What it says

    def _ask(self, now: float) -> None:
        child = self._child
        assert child is not None
        if self._asked is None:
            plan = self._plan
            self._asked = Asked(self._host, child.rest_port, plan.model, plan.token, plan.slots)
        is_waiting = self._state is not ReplicaState.READY or not self._has_settled()
        if not is_waiting and now - self._load_at < _LOAD_EVERY:
            return
        try:
            self._versions = self._asked.versions()
            if now - self._load_at >= _LOAD_EVERY:
                self._load_at, self._load = now, self._asked.load()
        except NoAnswer:
            return
        self._answered_at = now
        if any(each.state == "AVAILABLE" and not each.error for each in self._versions):
            self._state = ReplicaState.READY
            self._settled.set()
        elif self._state is ReplicaState.READY:
            self._state = ReplicaState.STARTING

    def _has_settled(self) -> bool:
        """Whether the server serves what is wanted, and nothing else."""
        served = {each.version for each in self._versions if each.state == "AVAILABLE"}
        return served == set(self._wanted)

    # The roster

    def _is_news(self) -> bool:
        return self._last_told != self._told()

    _last_told: tuple[Any, ...] = ()

    def _told(self) -> tuple[Any, ...]:
        port = 0 if self._child is None else self._child.rest_port
        return (self._state, self._versions, port, self._lacking(), tuple(self._absent))

    def _lacking(self) -> Versions:
        return tuple(v for v in self._wanted if v not in self._view.shown)

    def _report(self) -> None:
        self._last_told = self._told()
        try:
            answer = self._send()
        except Exception as error:  # noqa: BLE001 - Ray raises many kinds while the roster is away
            if self._roster is not None:
                _log.warning("the roster does not answer: %s", error)
            self._roster = None
            return
        self._may_leave = answer.may_leave
        self._front_at = max(self._front_at, time.monotonic() - answer.front_age)
        self._offers |= {offer.version: offer for offer in answer.offers}
        if answer.versions is not None and answer.versions != self._wanted:
            self._wanted = answer.versions
            self._refused.clear()
            # What has come of an earlier wish may be out of date.
            self._fetches = {v: each for v, each in self._fetches.items() if not each.done()}

    def _end_without_a_front(self, now: float) -> None:
        """End the server, once, if its front has been gone for long: nobody can reach it."""
        if now - self._front_at > FRONT_LEASE:
            self._front_at = math.inf
            self._note(f"there has been no front for {FRONT_LEASE:g} s, and the replicas end")
            start_on_daemon_thread(self._end_all)

    def _send(self) -> Answer:
        if self._roster is None:
            self._roster = self._connect()
        child = self._child
        lines, lost = ([], 0) if child is None else child.take_lines()
        lines = [*self._notes, *lines]
        self._notes.clear()
        refused = tuple(
            ReplicaVersion(version, "END", error.message)
            for version, error in self._refused.items()
        )
        known = {each.version for each in refused}
        report = Report(
            id=self._id,
            node=self._node,
            state=self._state,
            host=self._host,
            grpc_port=0 if child is None else child.grpc_port,
            rest_port=0 if child is None else child.rest_port,
            pid=0 if child is None else child.pid,
            versions=(*refused, *(v for v in self._versions if v.version not in known)),
            load=self._load,
            lacks=tuple(v for v in self._lacking() if v not in self._refused),
            needs_files=tuple(sorted(self._absent.intersection(self._wanted))),
            reason="" if self._error is None else self._error.message,
            exit_code=self._exit_code,
        )
        return self._roster.report(report, lines, lost)

    def _note(self, text: str) -> None:
        self._notes.append(f"the replica: {text}")

    def _take_lines(self, child: ServerChild) -> None:
        self._notes += child.take_lines()[0]

    # What is wanted

    def _serve_wanted(self) -> None:
        """Show the server what is wanted of it, once all of it is here."""
        for version in self._wanted:
            if version not in self._view.shown and version not in self._refused:
                self._find(version)
        if self._lacking():
            return
        self._view.want(self._wanted)
        if self._has_settled():
            self._view.keep(self._wanted)

    def _find(self, version: int) -> None:
        """Show the files of a version, if they are here; fetch them meanwhile, if they are not.

        That may take minutes, in which the server that runs is looked after.
        """
        fetch = self._fetches.get(version)
        if fetch is None:
            offer = self._offers.pop(version, None)
            if offer is None or time.monotonic() < self._may_fetch_at:
                return  # the next answer of the roster has it
            fetch = start_on_daemon_thread(self._nearby.folder, offer)
            self._fetches[version] = fetch
        wait([fetch], _ROUND)
        if not fetch.done():
            return
        del self._fetches[version]
        try:
            self._view.show(version, fetch.result())
            self._absent.discard(version)
        except Absent:
            self._absent.add(version)
        except MlserveError as error:
            self._refuse(version, error)
        except (OSError, ValueError) as error:
            self._refuse(version, ModelLoadFailed(f"its files cannot be read: {error}"))
        except Exception as error:  # noqa: BLE001 - Ray raises many kinds, as when the front is gone
            self._may_fetch_at = time.monotonic() + _FETCH_AGAIN_SECONDS
            self._note(f"version {version} has not arrived, and is fetched again: {error!r}")

    def _refuse(self, version: int, error: MlserveError) -> None:
        self._refused[version] = error
        self._note(f"version {version} cannot be served: {error.message}")
        if not self._settled.is_set():
            self._give_up(error, int(error.exit_code))

    # The end

    def _leave(self) -> None:
        """Say so, wait until the ingress has turned to others, and drain the server."""
        if self._error is not None:
            self._report()
        if self._error is None and self._child is not None:
            self._state = ReplicaState.DRAINING
            give_up = time.monotonic() + _LET_GO_WITHIN
            while time.monotonic() < give_up and not self._may_leave:
                self._report()
                time.sleep(_ROUND / 2)
            self._child.stop(self._plan.drain_timeout + _LAST_SECONDS)
        lines = [] if self._child is None else self._child.take_lines()[0]
        if self._error is None and self._roster is not None:
            with suppress(Exception):
                self._roster.leave(self._id, [*self._notes, *lines])


def _said(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _reason(errors: Sequence[str]) -> str:
    """Return the message of the last error in a server's log, without time and level."""
    found = [line for line in errors if "hint:" not in line]
    return found[-1].partition(" ERROR ")[2] or found[-1] if found else ""
