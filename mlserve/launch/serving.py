"""What `mlserve up` serves: one value, from the options to the record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlserve.load_options import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.store import LATEST_VERSION, VersionPolicy


@dataclass(frozen=True, slots=True)
class Serving:
    """A model to serve, and how. Two are equal if they ask for the same server.

    The version folders are in `base_path`. `image` is the container image to run; None takes the
    usual one. `docker_options` go to `docker run`. The rest is derived when the model is chosen,
    and ignored in comparisons: `expected` are the versions that must answer before the server is
    ready, and the model `takes_images` if mlserve exported all of them as image classifiers.
    """

    backend: str
    model: str
    base_path: Path
    versions: VersionPolicy = LATEST_VERSION
    options: LoadOptions = DEFAULT_LOAD_OPTIONS
    settings: ServerSettings = DEFAULT_SETTINGS
    image: str | None = None
    docker_options: tuple[str, ...] = ()
    expected: tuple[int, ...] = field(default=(), compare=False)
    has_random_weights: bool = field(default=False, compare=False)
    takes_images: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """The server's name: `<backend>-<model>`."""
        return f"{self.backend}-{self.model}"

    @property
    def changed(self) -> list[str]:
        """Return the names of the load options and settings that differ from their defaults."""
        return [*self.options.changed, *self.settings.changed]

    def argv(self) -> list[str]:
        """Return the flags of mlserve's own server for the load options and the settings."""
        return [*self.options.argv(), *self.settings.argv()]

    def is_served_by(self, running: Serving) -> bool:
        """Return whether a server started for `running` will do. `image` None accepts any."""
        return replace(self, image=self.image or running.image) == running

    def to_json(self) -> dict[str, Any]:
        """Return flat data, as `mlserve ps` prints it; `from_json` reads it."""
        return {
            "backend": self.backend,
            "model": self.model,
            "base_path": str(self.base_path),
            "versions": list(self.versions.versions),
            "all_versions": self.versions.serves_all,
            **self.options.to_json(),
            "settings": self.settings.to_json(),
            "image": self.image,
            "docker_options": list(self.docker_options),
            "expected": list(self.expected),
            "has_random_weights": self.has_random_weights,
            "takes_images": self.takes_images,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Serving:
        """Read what `to_json` wrote, also in an older version of mlserve.

        Raises KeyError, TypeError, ValueError, or UsageError for data of another shape.
        """
        settings = data.get("settings", {})
        return cls(
            backend=data["backend"],
            model=data["model"],
            base_path=Path(data["base_path"]),
            versions=VersionPolicy(
                tuple(map(int, data["versions"])), bool(data.get("all_versions", False))
            ),
            # `allow_unsafe_ops` was a setting before it became a load option.
            options=LoadOptions.from_json({**settings, **data}),
            settings=ServerSettings.from_json(settings),
            image=data.get("image"),
            docker_options=tuple(map(str, data.get("docker_options", ()))),
            expected=tuple(map(int, data.get("expected", ()))),
            has_random_weights=bool(data["has_random_weights"]),
            takes_images=bool(data.get("takes_images", False)),
        )
