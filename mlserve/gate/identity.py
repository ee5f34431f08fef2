"""Which model answers: the digests by which a server of mlserve names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlserve.client.answers import ModelMetadata


class Identity(NamedTuple):
    """A version of a model, and the digests of its manifest and of its certificate.

    The manifest lists the digests of all files of the version. Both are `sha256:<hex>`; None if the
    server does not tell, as no server but mlserve's does, or if there is none.
    """

    model: str
    version: int | None
    artifact: str | None
    certificate: str | None

    @classmethod
    def of(cls, metadata: ModelMetadata) -> Identity:
        """Return the identity in the metadata of a model."""
        told: Any = (metadata.contract or {}).get("digests")
        digests = told if isinstance(told, Mapping) else {}
        named = {key: str(value) for key, value in digests.items() if value is not None}
        return cls(
            metadata.model, metadata.version, named.get("artifact"), named.get("certificate")
        )

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        digest = "" if self.artifact is None else f" ({self.artifact[:19]}...)"
        return f"{self.model}{version}{digest}"
