"""A file for Docker Compose: a container of mlserve's image, with no more rights than it needs."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from mlserve.deploy.plan import FILES, DeployPlan, require_memory, require_one_version
from mlserve.deploy.yaml_text import Noted, yaml_text
from mlserve.errors import UsageError
from mlserve.launch.docker.dockerfile import USER
from mlserve.launch.docker.plan import within_container
from mlserve.settings import GRPC_PORT, REST_PORT

FILE = "compose.yaml"
SPARE_SECONDS = 10
"""Seconds beyond --drain-timeout in which a stopping server unloads its models and ends."""
_COMMENT = """\
Written by `mlserve deploy compose`; written again by it, so change what it is given.

docker compose up --wait"""


def compose_files(plan: DeployPlan, host: str) -> Mapping[str, str]:
    """Return the text of the file by its name; both ports are published at the address `host`.

    Raises UsageError for a file that the container's user could not read, and for several versions.
    """
    require_one_version(plan)
    require_memory(plan)
    _require_reached(plan)
    data: dict[str, Any] = {"name": plan.name, "services": {"server": _service(plan, host)}}
    if plan.files:
        data["secrets"] = {name: {"file": _literal(str(path))} for name, path in plan.files.items()}
    return {FILE: yaml_text(data, _COMMENT)}


def _require_reached(plan: DeployPlan) -> None:
    """Raise UsageError for a collector or a shadow at an address that is the container itself."""
    for address, flag, port in within_container(plan.settings):
        raise UsageError(
            f"{address} ({flag}) would be the container itself",
            hint=f"give the address as the container sees it: http://SERVICE:{port}",
        )


def _service(plan: DeployPlan, host: str) -> dict[str, Any]:
    drain = plan.settings.drain_timeout
    service: dict[str, Any] = {
        "image": plan.image,
        "command": Noted(
            [_literal(word) for word in _arguments(plan)],
            "Settings; the image names the model. Threads follow the CPUs below.",
        ),
        "user": _user(plan),
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - in the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": Noted(
            f"{math.ceil(drain) + SPARE_SECONDS}s", f"Longer than --drain-timeout ({drain:g} s)."
        ),
        "healthcheck": _health(plan),
        "ports": [
            _published(host, plan.grpc_port, GRPC_PORT),
            _published(host, plan.rest_port, REST_PORT),
        ],
        "deploy": {"resources": _resources(plan)},
    }
    if plan.files:
        service["secrets"] = [{"source": name, "target": str(FILES / name)} for name in plan.files]
    return service


def _arguments(plan: DeployPlan) -> Iterator[str]:
    """Yield the settings; the ports inside stay the image's, as its health check asks there."""
    yield from plan.load_options.argv()
    yield from plan.settings_inside.argv()


def _published(host: str, port: int, inside: int) -> str:
    return f"[{host}]:{port}:{inside}" if ":" in host else f"{host}:{port}:{inside}"


def _user(plan: DeployPlan) -> str | Noted:
    """Return who serves: whoever owns the secrets, as Compose mounts such files as they are."""
    files = plan.files.values()
    if all(path.stat().st_mode & stat.S_IROTH for path in files):
        return USER
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in files}
    if len(owners) > 1:
        raise UsageError(
            f"no single user can read {' and '.join(map(str, files))}: they have several owners",
            hint="give them to one user: chown",
        )
    [(uid, gid)] = owners
    why = "Whoever owns the secrets: Compose mounts them as they are."
    if uid == 0:
        why += f" To serve without root: chown {USER} {' '.join(map(str, files))}"
    return Noted(f"{uid}:{gid}", why)


def _health(plan: DeployPlan) -> dict[str, Any]:
    if plan.settings.tls_client_ca is not None:
        return {"disable": Noted(True, "The image's check has no client certificate.")}
    return {
        "test": Noted(
            ["CMD", "python", "-I", "-S", "/usr/local/bin/healthcheck.py"],
            "Whether each model would be served.",
        ),
        "interval": "5s",
        "timeout": "3s",
        "retries": 3,
        "start_period": f"{math.ceil(plan.wait)}s",
    }


def _resources(plan: DeployPlan) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpus": f"{plan.cpus:g}", "memory": _memory(plan.memory)}
    if not plan.gpus:
        return {"limits": limits}
    devices = [{"driver": "nvidia", "count": plan.gpus, "capabilities": ["gpu"]}]
    return {"limits": limits, "reservations": {"devices": devices}}


def _memory(size: int) -> str:
    """Return bytes as Compose reads them, whose `m` is 2^20."""
    return f"{size >> 20}m" if size % 2**20 == 0 else f"{size}b"


def _literal(text: str) -> str:
    """Return a text in which Compose finds no variable."""
    return text.replace("$", "$$")
