"""What `mlserve up` serves: one value, made from the options, that travels to the record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlserve.backend import DEFAULT_LOAD_OPTIONS, LoadOptions
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.store import LATEST_VERSION, VersionPolicy


class Launcher(StrEnum):
    """What runs a server, here or in an image.

    Mlserve's own server, the runtime's own (third-party) server, a container, or (auto) whichever
    fits.
    """

    AUTO = "auto"
    NATIVE = "native"
    EMBEDDED = "embedded"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True)
class Serving:
    """A model to serve, and how. Two are equal when they ask for the same server.

    The version folders lie in `base_path`. `image` is the container image to run; None takes the
    usual one. `docker_options` go to `docker run`. The rest was found when the model was chosen,
    and does not count when two are compared: `expected` are the versions that must answer before
    the server is ready, and the model `takes_images` where all of them were exported by mlserve.
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
        """The name of its server: `<backend>-<model>`."""
        return f"{self.backend}-{self.model}"

    @property
    def changed(self) -> list[str]:
        """The names of the load options and settings that do not have their default value."""
        return [*self.options.changed, *self.settings.changed]

    def argv(self) -> list[str]:
        """The flags of mlserve's own server that set the load options and the settings."""
        return [*self.options.argv(), *self.settings.argv()]

    def is_served_by(self, running: Serving) -> bool:
        """Whether a server that was started for `running` does. No `image` takes any."""
        return replace(self, image=self.image or running.image) == running

    def to_json(self) -> dict[str, Any]:
        """Returns it as flat data, the way `mlserve ps` prints it; `from_json` reads that."""
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
        """Reads what `to_json` wrote, also in an older version of mlserve.

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
            # `allow_unsafe_ops` was one of the settings before it was a load option.
            options=LoadOptions.from_json({**settings, **data}),
            settings=ServerSettings.from_json(settings),
            image=data.get("image"),
            docker_options=tuple(map(str, data.get("docker_options", ()))),
            expected=tuple(map(int, data.get("expected", ()))),
            has_random_weights=bool(data["has_random_weights"]),
            takes_images=bool(data.get("takes_images", False)),
        )
