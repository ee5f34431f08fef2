"""What is deployed: one value, from the options of `mlserve deploy` to the files of every kind."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlserve.artifact import Artifact
from mlserve.cluster_options import ClusterOptions
from mlserve.errors import UsageError
from mlserve.load_options import LoadOptions
from mlserve.options import flag_of
from mlserve.served_model import ServedModel
from mlserve.settings import GRPC_PORT, READY_WITHIN, REST_PORT, ServerSettings

MODELS = PurePosixPath("/models")
"""Holds `<model>/<version>/` in every image of mlserve's server."""
FILES = PurePosixPath("/run/mlserve")
"""Where a container finds the token, the certificate and the other files that settings name."""
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 48
"""Bytes of a name: what is derived from it, such as `<name>-grpc`, has to fit into 63."""
_MEMORY = re.compile(r"([0-9]+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SERVER_MEMORY = 2**30
_LEAST_MEMORY = 64 * 2**20
"""Below it not even the interpreter starts: a number that was meant to have a unit."""
_COPIES = 3
"""Times that the size of a version counts for memory: loaded, beside the next one, and at work."""
_STEP = 256 * 2**20


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """One server to deploy. Paths of `model` and `settings` are those of this machine.

    `name` names everything that is made. `cpus` and `memory` (bytes) are what each replica has at
    most, and always; `gpus` are whole devices. `image` has mlserve's own server in it. A replica
    that is not ready within `wait` seconds is started again. Raises UsageError for what does not
    go together.
    """

    name: str
    model: ServedModel
    settings: ServerSettings
    image: str
    replicas: str = "1"
    cpus: float = 1.0
    memory: int = _SERVER_MEMORY
    gpus: int = 0
    grpc_port: int = GRPC_PORT
    rest_port: int = REST_PORT
    wait: float = READY_WITHIN

    def __post_init__(self) -> None:
        _require_name(self.name)
        ClusterOptions(replicas=self.replicas)
        self._require_inside()
        if self.cpus <= 0 or not math.isfinite(self.cpus):
            raise UsageError(
                f"--cpus must be above 0, not {self.cpus:g}", hint="give for example 2"
            )
        wanted = self.model.options.threads
        if wanted is not None and wanted > self.threads_at_most:
            raise UsageError(
                f"--threads {wanted} is more than the {self.cpus:g} CPUs of a replica",
                hint=f"give --cpus {wanted}, or leave --threads out: it follows --cpus",
            )
        if re.fullmatch(r"\S+", self.image) is None:
            raise UsageError(
                f"{self.image!r} is not a valid value of --image",
                hint="give for example registry.example/efficientnet:3",
            )
        if self.grpc_port == self.rest_port:
            raise UsageError(
                f"--grpc-port and --rest-port are both {self.rest_port}",
                hint="give two different ports",
            )

    def _require_inside(self) -> None:
        for name in ("grpc_socket", "rest_socket"):
            if getattr(self.settings, name) is not None:
                raise UsageError(
                    f"{flag_of(name)} is for a server on the same machine as its clients",
                    hint="leave it out, and ask the ports",
                )
        if self.settings.record is not None:
            raise UsageError(
                f"deploy does not take {flag_of('record')}: where it runs, the server may write to "
                "no folder of its own",
                hint="leave it out; mlserve up records",
            )
        for flag in self.settings.rollout.flags:
            raise UsageError(
                f"deploy does not take {flag}: each replica would compare and stop by itself",
                hint="deploy the other version beside this one: --shadow ENDPOINT asks it",
            )
        if self.model.options.ladder is not None:
            raise UsageError(
                "deploy does not take --ladder: a container has the versions of one model",
                hint="leave it out, or serve the ladder with mlserve up",
            )

    @property
    def least(self) -> int:
        """The replicas that always run."""
        return ClusterOptions(replicas=self.replicas).least

    @property
    def most(self) -> int:
        """The replicas that run under load."""
        return ClusterOptions(replicas=self.replicas).most

    @property
    def threads_at_most(self) -> int:
        """The threads that the CPUs of a replica can keep busy."""
        return max(1, math.ceil(self.cpus))

    @property
    def load_options(self) -> LoadOptions:
        """The load options, with the threads of the CPUs."""
        threads = self.model.options.threads or self.threads_at_most
        return replace(self.model.options, threads=threads)

    @property
    def has_token(self) -> bool:
        """Whether callers need a token."""
        return self.settings.token_file is not None

    @property
    def has_tls(self) -> bool:
        """Whether both ports speak TLS."""
        return self.settings.speaks_tls

    @property
    def files(self) -> Mapping[str, Path]:
        """The files that settings name, by the setting: secrets, but for the public ones."""
        changed = self.settings.changed.items()
        return {name: value for name, value in changed if isinstance(value, Path)}

    @property
    def settings_inside(self) -> ServerSettings:
        """The settings with the files where a container finds them."""
        inside: dict[str, Any] = {name: Path(FILES / name) for name in self.files}
        return replace(self.settings, **inside)

    @property
    def base_path_inside(self) -> PurePosixPath:
        """The folder of version folders in a container."""
        return MODELS / self.model.model

    def server_arguments(self) -> Iterator[str]:
        """Yield the arguments of `python -P -m mlserve.server` in a container, one a flag."""
        model = self.model
        yield f"--backend={model.backend}"
        yield f"--model={model.model}"
        yield f"--base-path={self.base_path_inside}"
        yield "--host=0.0.0.0"
        yield f"--grpc-port={self.grpc_port}"
        yield f"--rest-port={self.rest_port}"
        yield from self.load_options.argv()
        yield from self.settings_inside.argv()

    def version_arguments(self) -> list[str]:
        """Return the arguments that name the versions, for a folder that may hold others too."""
        asked = self.model.versions
        if asked.serves_all:
            return ["--all-versions"]
        return ["--version", *map(str, asked.versions)] if asked.versions else []


SERVER_COMMAND = ("python", "-P", "-m", "mlserve.server")
"""-P: a module in the current folder must not stand in for one of the server's."""


def name_for(model: str) -> str:
    """Return a name made of a model's: lower-case letters, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name if name[:1].isalpha() else f"model-{name}"
    return name[:_LONGEST_NAME].strip("-")


def memory_for(model: ServedModel) -> int:
    """Return a guess of the bytes that a replica needs: a start, to be measured under load.

    1 GiB for the server, and three times the largest version: one is loaded beside the next.
    """
    sizes = [
        _size(Artifact.open(model.base_path, model.model, version).path)
        for version in model.expected
    ]
    needed = _SERVER_MEMORY + _COPIES * max(sizes, default=0)
    return math.ceil(needed / _STEP) * _STEP


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def memory_in(text: str) -> int:
    """Return the bytes of a quantity such as `2Gi` or `1500M`. Raises UsageError."""
    match = _MEMORY.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2] or ""] if match is not None else 0
    if size < _LEAST_MEMORY:
        raise UsageError(
            f"{text!r} is not a valid value of --memory, of which a server needs "
            f"{memory_text(_LEAST_MEMORY)} and more",
            hint="give for example 2Gi or 1500Mi",
        )
    return size


def memory_text(size: int) -> str:
    """Return bytes as the shortest exact quantity: `2Gi`."""
    for unit in ("Gi", "Mi", "Ki"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def cpus_text(cpus: float) -> str:
    """Return CPUs as a quantity: `2`, `500m`."""
    thousandths = math.ceil(cpus * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def require_one_version(plan: DeployPlan) -> None:
    """Raise UsageError for several versions, where the image of one has to hold them."""
    if plan.model.versions.serves_all or len(plan.model.expected) > 1:
        raise UsageError(
            "an image holds one version of a model",
            hint="choose it with --version N; on a cluster, a volume can hold several: "
            "--artifacts pvc://CLAIM",
        )


def require_memory(plan: DeployPlan) -> None:
    """Raise UsageError if requests alone may take the memory to which a replica is limited."""
    asked = plan.settings.max_queue_bytes or 0, plan.settings.max_body_memory or 0
    if sum(asked) >= plan.memory:
        raise UsageError(
            f"a replica has {memory_text(plan.memory)} of memory, and --max-queue-bytes and "
            f"--max-body-memory let requests take {sum(asked)} bytes of it",
            hint="give more with --memory, or leave those two out: the server follows the memory",
        )


def _require_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} is not a valid value of --name",
            hint="start with a lower-case letter, then letters, digits and dashes, "
            f"{_LONGEST_NAME} at most: --name {name_for(name)}",
        )
