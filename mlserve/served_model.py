"""A model to serve: one value, from the options or the file to the server and the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlserve.load_options import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.rollout import NO_ROLLOUT, RolloutOptions
from mlserve.store import LATEST_VERSION, VersionPolicy


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model to serve, and how it is loaded. Two are equal if they ask for the same.

    The version folders are in `base_path`. `rollout` says what a second version is for, which
    `versions` have aside. The rest is derived when the model is chosen, and
    ignored in comparisons: `expected` are the versions that must answer before the server is ready,
    and the model `takes_images` if mlserve exported all of them as image classifiers.
    """

    backend: str
    model: str
    base_path: Path
    versions: VersionPolicy = LATEST_VERSION
    options: LoadOptions = DEFAULT_LOAD_OPTIONS
    rollout: RolloutOptions = NO_ROLLOUT
    expected: tuple[int, ...] = field(default=(), compare=False)
    has_random_weights: bool = field(default=False, compare=False)
    takes_images: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return flat data, as `mlserve ps` prints it; `from_json` reads it."""
        return {
            "backend": self.backend,
            "model": self.model,
            "base_path": str(self.base_path),
            "versions": list(self.versions.versions),
            "all_versions": self.versions.serves_all,
            **self.options.to_json(),
            **self.rollout.to_json(),
            "expected": list(self.expected),
            "has_random_weights": self.has_random_weights,
            "takes_images": self.takes_images,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServedModel:
        """Read what `to_json` wrote, also in an older version of mlserve.

        Raises KeyError, TypeError, ValueError, or UsageError for data of another shape.
        """
        rollout = RolloutOptions.from_json(data)
        return cls(
            backend=data["backend"],
            model=data["model"],
            base_path=Path(data["base_path"]),
            versions=VersionPolicy(
                tuple(map(int, data["versions"])),
                bool(data.get("all_versions", False)),
                aside=rollout.aside,
            ),
            options=LoadOptions.from_json(data),
            rollout=rollout,
            expected=tuple(map(int, data.get("expected", ()))),
            has_random_weights=bool(data["has_random_weights"]),
            takes_images=bool(data.get("takes_images", False)),
        )
