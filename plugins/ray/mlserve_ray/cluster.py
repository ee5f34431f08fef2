"""The Ray cluster: one of our own on this machine, or a node of ours in one that runs elsewhere.

Either is `ray start --block` as a child process: it has ports and a folder of its own, leads its
own process group, and ends with this process. No other cluster on the machine is touched, and none
is found by accident: the driver connects to the node that was started here, by its folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlserve.distributions import install_command
from mlserve.errors import PluginError, Unavailable, UsageError, bounded
from mlserve.system import usable_cpus
from mlserve_ray.folders import own_folder
from mlserve_ray.parent_death import dying_with_us

_log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_PAUSE = 0.05
_STORE_BYTES = 100_000_000
"""Of the object store of a node that only brings artifacts: it has at least 75 MB, and spills."""
_OPENED = "r"
_STARTED = "This command will now block"
_MISMATCH = re.compile(r"(?:Version mismatch|version mismatch).*", re.DOTALL)
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_COLOR_PREFIX": "0",
}
"""For every process of Ray that we start: nothing is sent to anybody, and logs stay in files."""


@dataclass(slots=True)
class Node:
    """A node of Ray that runs as a child of this process, in the folder `folder`."""

    process: subprocess.Popen[bytes]
    folder: Path
    address: str
    is_local: bool

    @property
    def temp_dir(self) -> Path:
        """Ray's folder of temporary files. Ray lets everybody write to it, but not to `folder`."""
        return self.folder / _OPENED

    @property
    def has_ended(self) -> bool:
        """Whether Ray's processes here are gone."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill its processes at once."""
        self._kill_session()

    def _is_running(self) -> bool:
        self.process.poll()
        return any(True for _ in self._session())

    def _kill_session(self) -> None:
        """Kill the workers, which are no longer in the process group but in the session."""
        for process in self._session():
            with suppress(psutil.Error):
                process.kill()

    def _session(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                is_ours = os.getsid(process.pid) == self.process.pid
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def stop(self) -> None:
        """Stop its processes, wait for them, and remove its folder.

        A cluster of our own has nothing to tell anybody; a node of another one leaves it in order.
        """
        for number in (signal.SIGKILL,) if self.is_local else (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            if number is signal.SIGKILL:
                self._kill_session()
            give_up = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < give_up and self._is_running():
                time.sleep(_PAUSE)
            if not self._is_running():
                break
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def front_resource(server: str) -> str:
    """Return the resource that only the node of that server's front has."""
    return f"mlserve-front-{server}"


def start_local(server: str) -> Node:
    """Start a cluster on this machine, which nobody else can use: it wants a token of its own.

    Return at once; `wait_started` waits. Raises PluginError if Ray cannot be run.
    """
    # Ray listens on all addresses, and runs any code it is sent.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    address = f"127.0.0.1:{_free_port()}"
    flags = ["--head", f"--port={address.rpartition(':')[2]}", f"--num-cpus={usable_cpus()}"]
    flags += [f"--ray-client-server-port={_free_port()}", "--include-dashboard=false"]
    return _start(server, flags, address, is_local=True)


def join(server: str, address: str, ours: str) -> Node:
    """Join the cluster at `host:port` with a node that has no CPUs: nothing is placed here.

    `ours` is this machine's address in it. Return at once; `wait_started` waits.
    """
    flags = [f"--address={address}", "--num-cpus=0", "--num-gpus=0", f"--node-ip-address={ours}"]
    flags.append(f"--object-store-memory={_STORE_BYTES}")
    return _start(server, flags, address, is_local=False)


def own_address(address: str) -> str:
    """Return the address that this machine has towards the cluster at `host:port`.

    Raises UsageError for what is no address, and Unavailable if nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster",
            hint="give HOST:PORT, as `ray start --head` shows it; the port is usually 6379",
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as peer:
            found: str = peer.getsockname()[0]
            return found
    except (OSError, OverflowError) as error:
        raise Unavailable(
            f"no Ray cluster answers at {address}: {error}",
            hint="start one there: ray start --head --port=6379; or leave --address out to run on "
            "this machine",
        ) from error


def _start(server: str, flags: list[str], address: str, *, is_local: bool) -> Node:
    program = Path(sys.executable).with_name("ray")
    if not program.is_file():
        raise PluginError(f"{program} is not installed", hint=install_command("mlserve-ray"))
    # Ray's sockets lie in it, and the kernel takes a path of at most 107 bytes.
    folder = own_folder("mlsr", Path("/tmp"))  # noqa: S108 - its name is random
    argv = [sys.executable, "-P", str(program), "start", "--block", *flags]
    argv += [f"--temp-dir={folder / _OPENED}", "--disable-usage-stats", "--log-color=false"]
    argv.append(f"--resources={json.dumps({front_resource(server): 1})}")
    argv += ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
    argv += [f"--dashboard-agent-listen-port={_free_port()}"]
    with (folder / "start.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **QUIET},
            start_new_session=True,  # `mlserve down` signals our group, and Ray must outlive that
        )
    return Node(process, folder, address, is_local)


def wait_started(node: Node) -> None:
    """Wait until the node runs.

    Raises PluginError for another version of Ray or Python than the cluster's, and Unavailable for
    whatever else keeps it from running.
    """
    log = node.folder / "start.log"
    give_up = time.monotonic() + _START_SECONDS
    while True:
        has_ended = node.has_ended
        text = log.read_text(errors="replace")
        if _STARTED in text:
            return
        if has_ended or time.monotonic() > give_up:
            raise _not_started(node, text)
        time.sleep(_PAUSE)


def _not_started(node: Node, text: str) -> Exception:
    if found := _MISMATCH.search(text):
        return other_versions(node.address, found[0])
    what = "a local Ray" if node.is_local else f"a node of the Ray cluster at {node.address}"
    lines = [line for line in text.splitlines() if line.strip()]
    return Unavailable(
        f"{what} does not start: {bounded(' '.join(lines[-3:]))}",
        hint="see whether `ray start --head` runs here"
        if node.is_local
        else "see whether the cluster runs, and whether it wants a token (RAY_AUTH_TOKEN)",
    )


def other_versions(address: str, text: str) -> PluginError:
    """Return the error for a cluster of another Ray or Python than here."""
    return PluginError(
        f"the Ray cluster at {address} has other versions than this machine: {bounded(text)}",
        hint="install the same Python and the same ray on every machine",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
