"""Where a cluster finds a model's folder of versions, if it is not in the image of the server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from mlserve.errors import UsageError


class Scheme(StrEnum):
    """How an address of artifacts begins."""

    PVC = "pvc"
    OCI = "oci"
    OCI_NATIVE = "oci+native"


@dataclass(frozen=True, slots=True)
class Artifacts:
    """An address: `pvc://CLAIM/FOLDER`, `oci://IMAGE` or `oci+native://IMAGE`, as KServe has them.

    The folder of a claim holds `<version>/`. An image holds `/models/<version>/` for KServe, and
    `/models/<model>/<version>/`, as `mlserve build` makes it, for a Deployment.
    """

    scheme: Scheme
    name: str
    folder: str = ""

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read an address. Raises UsageError."""
        scheme, separator, rest = address.partition("://")
        if not separator or scheme not in tuple(Scheme) or not rest.strip("/"):
            raise UsageError(
                f"{address!r} is not a valid value of --artifacts",
                hint="give pvc://CLAIM/FOLDER or oci+native://IMAGE",
            )
        if scheme != Scheme.PVC:
            return cls(Scheme(scheme), rest)
        claim, _, folder = rest.partition("/")
        if not claim or ".." in folder.split("/"):
            raise UsageError(
                f"{address!r} is not a valid value of --artifacts",
                hint="give pvc://CLAIM/FOLDER, without '..'",
            )
        return cls(Scheme.PVC, claim, folder.strip("/"))

    def __str__(self) -> str:
        end = f"/{self.folder}" if self.folder else ""
        return f"{self.scheme}://{self.name}{end}"
