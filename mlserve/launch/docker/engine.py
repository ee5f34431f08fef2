"""The `docker` command: how to call it, and what its failures mean.

The command rather than a library: users have it, it knows their contexts and DOCKER_HOST, and
podman provides one with the same name and options.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlserve.errors import PluginError, Unavailable

_TIMEOUT = 60.0
_NO_PERMISSION = "permission denied"
_NO_ENGINE = (
    "cannot connect to the docker daemon",
    "error during connect",
    "failed to connect to the docker api",
    "is the docker daemon running",
    "unable to connect to podman",
)


class NoEngine(PluginError):
    """There is no container engine that this user may use."""


class EngineRefused(Unavailable):
    """The container engine failed; `output` is all that it printed."""

    def __init__(self, message: str, *, hint: str | None = None, output: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine's version, its machine, and how it runs containers."""

    version: str
    architecture: str
    cpus: int
    memory: int
    is_rootless: bool


def docker(*args: str, timeout: float = _TIMEOUT) -> str:
    """Return what `docker ARGS` prints. Raises NoEngine, or EngineRefused if it fails."""
    try:
        done = subprocess.run(
            argv(*args),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineRefused(
            f"the container engine did not answer within {timeout:g} s (docker {args[0]})",
            hint="check it with docker info",
        ) from error
    if done.returncode != 0:
        raise refusal(args, done.stderr)
    return done.stdout


def argv(*args: str) -> list[str]:
    """Return the command line of `docker ARGS`. Raises NoEngine if there is no such command."""
    executable = shutil.which("docker")
    if executable is None:
        raise NoEngine(
            "docker is not on PATH",
            hint=f"install Docker Engine (or podman with its docker command); {_WITHOUT}",
        )
    return [executable, *args]


def inspect(kind: str, names: Sequence[str], *, timeout: float = _TIMEOUT) -> list[dict[str, Any]]:
    """Return the engine's data on the containers or images (`kind`) with these names or ids.

    Returns an empty list if none exists. Raises NoEngine and EngineRefused.
    """
    if not names:
        return []
    try:
        found = json.loads(docker(kind, "inspect", *names, timeout=timeout))
    except EngineRefused as error:
        if "no such" in error.output.lower():
            return []
        raise
    return [item for item in found if isinstance(item, dict)]


def engine_info(timeout: float = 10.0) -> EngineInfo:
    """Ask the engine about itself. Raises NoEngine and EngineRefused."""
    told = json.loads(docker("info", "--format", "{{json .}}", timeout=timeout))
    if told.get("ServerErrors"):
        raise refusal(("info",), "\n".join(told["ServerErrors"]))
    if "Architecture" not in told:  # podman reports the same under other keys
        host = told.get("host", {})
        security = host.get("security", {})
        return EngineInfo(
            str(told.get("version", {}).get("Version", "?")),
            str(host.get("arch", "")),
            int(host.get("cpus", 0)),
            int(host.get("memTotal", 0)),
            bool(security.get("rootless")),
        )
    return EngineInfo(
        str(told.get("ServerVersion", "?")),
        _ARCHITECTURES.get(told["Architecture"], told["Architecture"]),
        int(told.get("NCPU", 0)),
        int(told.get("MemTotal", 0)),
        any("rootless" in option for option in told.get("SecurityOptions") or ()),
    )


_WITHOUT = "without one: mlserve up --launcher embedded, or mlserve build --file-only DIR"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def refusal(args: Sequence[str], output: str) -> NoEngine | EngineRefused:
    """Return the error for a failed `docker` command that printed `output`."""
    said = output.lower()
    if _NO_PERMISSION in said and ("connect" in said or "dial" in said):
        return NoEngine(
            f"no permission to use the container engine at {_address()}",
            hint="sudo usermod -aG docker $USER and log in again, or use a rootless engine; "
            + _WITHOUT,
        )
    if any(words in said for words in _NO_ENGINE):
        return NoEngine(
            f"no container engine answers at {_address()}",
            hint="start it (systemctl start docker), or name another with DOCKER_HOST or "
            "`docker context use`; " + _WITHOUT,
        )
    return EngineRefused(f"docker {args[0]} failed: {_reason(output)}", output=output)


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("See 'docker", "Run 'docker"))]
    return (told or lines or ["it gave no reason"])[-1]


def _address() -> str:
    return os.environ.get("DOCKER_HOST") or "the address of docker's context (docker context ls)"
