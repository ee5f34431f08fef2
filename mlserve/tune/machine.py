"""What a tuning holds for: this machine, and these files of the model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from mlserve.artifact import Artifact
from mlserve.digests import file_names, joined
from mlserve.system import cpu_model, usable_cpus


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine is to a tuning: the model of its CPUs, and how many may be used."""

    cpu: str
    usable_cpus: int

    @classmethod
    def here(cls) -> Machine:
        return cls(cpu_model(), usable_cpus())

    def __str__(self) -> str:
        return f"{self.cpu}, {self.usable_cpus} usable CPU" + "s" * (self.usable_cpus != 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        """Read the output of `to_json`. Raises KeyError, TypeError and ValueError."""
        return cls(str(data["cpu"]), int(data["usable_cpus"]))


def version_digest(artifact: Artifact) -> str:
    """Return `sha256:<hex>` that changes with the files of a version. Raises OSError.

    That of a version which lists its digests; else of the names, sizes and times of its files, as
    `mlserve up` has no time to read them.
    """
    manifest = artifact.manifest
    if manifest is not None and manifest.files is not None:
        return joined(manifest.files)
    seen = [
        (name, found.st_size, found.st_mtime_ns)
        for name in file_names(artifact.path)
        for found in [(artifact.path / name).stat()]
    ]
    return f"sha256:{hashlib.sha256(repr(seen).encode()).hexdigest()}"
