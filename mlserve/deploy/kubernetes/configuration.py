"""The ConfigMap with mlserve.toml, which a server follows, and how Secrets are made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlserve.config.locate import NAME
from mlserve.deploy.kubernetes.network import METRICS_KEY
from mlserve.deploy.kubernetes.values import ClusterSetup, Values
from mlserve.deploy.kubernetes.workload import CONFIG
from mlserve.deploy.plan import DeployPlan
from mlserve.deploy.yaml_text import Noted

_HOST = "0.0.0.0"


def server_arguments(plan: DeployPlan, setup: ClusterSetup) -> list[str]:
    """Return the arguments of the server: of one model, or of the file that it follows.

    An image holds one version, and says by that which; a volume may hold others too.
    """
    if not setup.config_map:
        versions = [] if setup.artifacts is None else plan.version_arguments()
        return [*plan.server_arguments(), *versions]
    return [
        f"--config={CONFIG}/{NAME}",
        f"--server={plan.name}",
        f"--host={_HOST}",
        f"--grpc-port={plan.grpc_port}",
        f"--rest-port={plan.rest_port}",
        *plan.settings_inside.argv(),
    ]


def config_map(plan: DeployPlan, values: Values) -> Any:
    """Return the ConfigMap. Its file says again what the arguments say, which hold for good."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": values.metadata(values.config_name),
        "data": {
            NAME: Noted(
                config_text(plan),
                "The server follows it: a changed model, version or option is in force a minute or "
                "two after `kubectl apply`, without a restart. The address and the settings hold "
                "until a restart.",
            )
        },
    }


def config_text(plan: DeployPlan) -> str:
    """Return the mlserve.toml of a server of this one model."""
    return "\n".join(_config_lines(plan)) + "\n"


def _config_lines(plan: DeployPlan) -> Iterator[str]:
    model = plan.model
    yield f"[servers.{_key(plan.name)}]"
    yield from _assignments(
        {
            "host": _HOST,
            "grpc_port": plan.grpc_port,
            "rest_port": plan.rest_port,
            **plan.settings_inside.changed,
        }
    )
    yield ""
    yield f"[servers.{_key(plan.name)}.models.{_key(model.model)}]"
    version: dict[str, Any] = {}
    if model.versions.versions:
        version = {"version": list(model.versions.versions)}
    elif model.versions.serves_all:
        version = {"version": "all"}
    yield from _assignments(
        {
            "backend": model.backend,
            "path": str(plan.base_path_inside),
            **version,
            **plan.load_options.changed,
        }
    )


def _assignments(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        plain = str(value) if isinstance(value, Path | StrEnum) else value
        # A text, a number, a truth value and a list are written in TOML as they are in JSON.
        yield f"{key} = {json.dumps(plain, ensure_ascii=False)}"


def _key(name: str) -> str:
    """Return a name as a key of TOML: in quotes if it has more than letters, digits, - and _."""
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if is_bare else json.dumps(name, ensure_ascii=False)


def secret_command(plan: DeployPlan, namespace: str | None) -> str | None:
    """Return the command that makes the Secret of the files on this machine; None without any.

    The files themselves are written nowhere: a token does not belong in a repository.
    """
    if not plan.files:
        return None
    words = ["kubectl", "create", "secret", "generic", f"{plan.name}-access"]
    words += [f"--namespace={namespace}"] if namespace else []
    words += [f"--from-file={key}={path}" for key, path in plan.files.items()]
    if plan.has_token:
        words.append(f"--from-literal={METRICS_KEY}=TOKEN")
    return shlex.join(words)
