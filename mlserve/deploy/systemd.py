"""Units that run a server under systemd: a service, and a socket each for gRPC and REST.

systemd opens both ports and keeps them: what connects while the service restarts waits, and is
answered by the new process (`mlserve.activation`). The service tells systemd when it is ready, and
that it is alive (`mlserve.notify`). It runs as a user of its own, sees no home but what it needs,
and writes only into its own state folder.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from mlserve.deploy.plan import DeployPlan, require_memory
from mlserve.errors import UsageError
from mlserve.options import flag_of
from mlserve.settings import DEFAULT_HOST

BACKLOG = 2048
"""Connections that wait in the kernel while the service restarts."""
SPARE_SECONDS = 15
"""Seconds beyond --drain-timeout in which a stopping server unloads its models and ends."""
WATCHDOG_SECONDS = 60
"""A server whose event loop has stood still for that long is ended, and started again."""
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""What ProtectHome= and PrivateTmp= hide."""
_USER = re.compile(r"[a-z_][-a-z0-9_]{0,30}")
_PROGRAM = re.compile(r"/.*|[A-Za-z0-9_][^/]*")
"""A path, or a name that systemd finds in its own search path."""
_LOADING = 30
_MARK = "# Written by `mlserve deploy systemd`; written again by it, so change what it is given.\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """What only this machine has: where the ports listen, who serves, and with what at most.

    `user` None has systemd make one for the time that the service runs. `cpus` and `memory` (bytes)
    None set no limit. `program` is the command `mlserve`. Raises UsageError.
    """

    program: tuple[str, ...]
    host: str = DEFAULT_HOST
    user: str | None = None
    cpus: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        try:
            ip_address(self.host)
        except ValueError as error:
            raise UsageError(
                f"{self.host!r} is not a valid value of --host: it has to be an IP address",
                hint="give for example 127.0.0.1 or 0.0.0.0",
            ) from error
        if _PROGRAM.fullmatch(self.program[0]) is None:
            raise UsageError(
                f"{self.program[0]!r} is not a valid value of --executable: systemd needs the "
                "whole path",
                hint="give for example /opt/mlserve/bin/mlserve",
            )
        if self.user is not None and _USER.fullmatch(self.user) is None:
            raise UsageError(
                f"{self.user!r} is not a valid value of --user", hint="give for example serving"
            )
        if self.cpus is not None and not (self.cpus > 0 and math.isfinite(self.cpus)):
            raise UsageError(
                f"--cpus must be above 0, not {self.cpus:g}", hint="give for example 2"
            )


def this_program() -> tuple[str, ...]:
    """Return the command `mlserve` of this installation, by its absolute path."""
    beside = Path(sys.executable).with_name("mlserve")
    if beside.exists():
        return (str(beside),)
    return sys.executable, "-P", "-m", "mlserve"


def unit_files(plan: DeployPlan, machine: Machine) -> Mapping[str, str]:
    """Return the units' texts by their names: the service, and the sockets of both ports."""
    if machine.memory is not None:
        require_memory(plan)
    unit = unit_name(plan)
    ports = {"grpc": plan.grpc_port, "rest": plan.rest_port}
    sockets = {
        f"{unit}-{kind}.socket": _socket(plan, machine, kind, port) for kind, port in ports.items()
    }
    return {f"{unit}.service": _service(plan, machine, list(sockets)), **sockets}


def unit_name(plan: DeployPlan) -> str:
    """Return the name of the units: `mlserve-<name>`."""
    return plan.name if plan.name.startswith("mlserve") else f"mlserve-{plan.name}"


def as_text(files: Mapping[str, str]) -> str:
    """Return all units as one text for people, each below its name."""
    return "\n".join(f"# {name}\n{text}" for name, text in files.items())


def _socket(plan: DeployPlan, machine: Machine, kind: str, port: int) -> str:
    host = f"[{machine.host}]" if ":" in machine.host else machine.host
    only = "BindIPv6Only=ipv6-only\n" if _is_one_ipv6_address(machine.host) else ""
    return f"""\
{_MARK}[Unit]
Description=mlserve: {_plain(plan.model.model)}, {kind}

[Socket]
ListenStream={host}:{port}
{only}FileDescriptorName={kind}
Service={unit_name(plan)}.service
# What connects while the service restarts waits here.
Backlog={BACKLOG}

[Install]
WantedBy=sockets.target
"""


def _is_one_ipv6_address(host: str) -> bool:
    address = ip_address(host)
    return isinstance(address, IPv6Address) and not address.is_unspecified


def _service(plan: DeployPlan, machine: Machine, sockets: list[str]) -> str:
    settings = plan.settings
    unit = unit_name(plan)
    lines = [
        _MARK + "[Unit]",
        f"Description=mlserve: {_plain(plan.model.model)} ({plan.model.backend})",
        f"Requires={' '.join(sockets)}",
        f"After={' '.join(sockets)}",
        "# A server that cannot load its model is tried again for as long as it takes.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "# Ready: each model is loaded and answers. It is the server that says so, a child of",
        "# `mlserve up`.",
        "Type=notify",
        "NotifyAccess=all",
        f"TimeoutStartSec={math.ceil(plan.wait) + _LOADING}",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        *_start(plan, machine),
        "# SIGTERM goes to `mlserve up` alone, which passes it on: a second one would end the",
        "# server at once, and it has to answer its last requests.",
        "KillMode=mixed",
        f"# Longer than --drain-timeout ({settings.drain_timeout:g} s).",
        f"TimeoutStopSec={math.ceil(settings.drain_timeout) + SPARE_SECONDS}",
        "Restart=on-failure",
        "RestartSec=2",
        "",
        *_user(machine),
        f"StateDirectory={unit}",
        "StateDirectoryMode=0700",
        f"Environment=MLSERVE_HOME=%S/{unit}",
        "UMask=0077",
        *_limits(machine),
        "",
        *_sandbox(plan, machine),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _start(plan: DeployPlan, machine: Machine) -> Iterator[str]:
    """Yield the command, and the files that it needs and only root may read."""
    secrets = plan.files
    for name, path in secrets.items():
        yield f"LoadCredential={name}:{_escaped(str(path))}"
    inside: dict[str, Any] = {name: Path("@") / name for name in secrets}
    model = plan.model
    words = [f"--path={model.base_path}", f"--backend={model.backend}", f"--model={model.model}"]
    words += [f"--version={number}" for number in model.versions.versions]
    words += ["--version=all"] if model.versions.serves_all else []
    words += [*model.options.argv(), *replace(plan.settings, **inside).argv()]
    command = [*machine.program, "up", "--foreground", "--launcher=embedded", "--config=none"]
    lines = [" ".join(map(_quoted, command)), f"--wait={plan.wait:g}", *map(_quoted, words)]
    yield "ExecStart=" + " \\\n    ".join(lines).replace("=@/", "=%d/")


def _user(machine: Machine) -> Iterator[str]:
    if machine.user is None:
        yield "# A user that exists while the service runs. It has to be able to read the model."
        yield "DynamicUser=yes"
    else:
        yield f"User={machine.user}"


def _limits(machine: Machine) -> Iterator[str]:
    if machine.cpus is not None:
        yield "# The server runs as many calls at once as it has CPUs, unless --threads says so."
        yield f"CPUQuota={math.ceil(machine.cpus * 100)}%"
    if machine.memory is not None:
        yield f"MemoryMax={machine.memory}"


def _sandbox(plan: DeployPlan, machine: Machine) -> Iterator[str]:
    yield "ProtectSystem=strict"
    yield "ProtectHome=tmpfs"
    for path in _needed_of_hidden(plan, machine):
        yield f"BindReadOnlyPaths={_escaped(str(path))}"
    if plan.gpus:
        yield "# PrivateDevices= is left out: it would hide the GPU."
    else:
        yield "PrivateDevices=yes"
    # Not MemoryDenyWriteExecute=: runtimes compile. Not ProcSubset=pid: /proc/stat is read.
    for name in (
        *("PrivateTmp", "NoNewPrivileges", "ProtectProc", "ProtectClock", "ProtectHostname"),
        *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs"),
        *("ProtectControlGroups", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
        *("LockPersonality", "RemoveIPC"),
    ):
        yield f"{name}={'invisible' if name == 'ProtectProc' else 'yes'}"
    yield "CapabilityBoundingSet="
    yield "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"
    yield "SystemCallArchitectures=native"
    yield "SystemCallFilter=@system-service"


def _needed_of_hidden(plan: DeployPlan, machine: Machine) -> list[Path]:
    """Return the folders that the service needs and would not see: model and installation."""
    needed = [plan.model.base_path, Path(machine.program[0]).parent.parent]
    needed += [Path(sys.prefix), Path(sys.base_prefix)]
    # What is visible may be a link to what is not.
    both = (path for each in needed for path in (Path(os.path.normpath(each)), each.resolve()))
    return [
        path for path in dict.fromkeys(both) if any(path.is_relative_to(home) for home in _HIDDEN)
    ]


def _plain(text: str) -> str:
    """Return a text for a description: one line, and no specifier."""
    return " ".join(text.split()).replace("%", "%%")


def _escaped(path: str) -> str:
    """Return a path for an option that takes words, in which % begins a specifier."""
    if any(character in path for character in " \t\n\r\"':;\\"):
        raise UsageError(
            f"{path} cannot stand in a unit: a blank, a quote, a colon or a backslash is in it",
            hint="move it to another folder, and name that",
        )
    return path.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return a word of a command line in a unit: quoted if needed, $ and % doubled."""
    if "\n" in word:
        raise UsageError(f"{word!r} cannot stand in a unit: it has two lines", hint=_ONE_LINE)
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    if re.search(r"[\s\"'\\;]", escaped) or not escaped:
        return '"' + escaped.replace('"', '\\"') + '"'
    return escaped


_ONE_LINE = f"give it in one line; {flag_of('path')} can name another folder"
