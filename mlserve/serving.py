"""What `mlserve up` serves: one value, from the options or the file to the record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlserve.cluster_options import DEFAULT_CLUSTER, ClusterOptions
from mlserve.served_model import ServedModel
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """A server's place in a configuration file: the table `[servers.<server>]` of `path`."""

    path: Path
    server: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The models that one server serves, and how. Two are equal if they ask for the same server.

    `image` is the container image to run; None takes the usual one. `docker_options` go to
    `docker run`. A server that is described in a file has its place in `config`, and its models
    change with the file while it runs. `cluster` is for launchers whose servers have replicas.
    """

    models: tuple[ServedModel, ...]
    settings: ServerSettings = DEFAULT_SETTINGS
    image: str | None = None
    docker_options: tuple[str, ...] = ()
    config: ConfigEntry | None = None
    cluster: ClusterOptions = DEFAULT_CLUSTER

    @property
    def name(self) -> str:
        """The server's name: `<backend>-<model>`, or the one that its file gives it."""
        if self.config is not None:
            return self.config.server
        return f"{self.only.backend}-{self.only.model}"

    @property
    def only(self) -> ServedModel:
        """The model of a server of one model, which the rest of mlserve has made sure of."""
        [model] = self.models
        return model

    @property
    def has_random_weights(self) -> bool:
        """Whether one of the models has random weights."""
        return any(model.has_random_weights for model in self.models)

    @property
    def changed(self) -> list[str]:
        """Return the names of the load options and settings that differ from their defaults."""
        options = (name for model in self.models for name in model.options.changed)
        return [*dict.fromkeys(options), *self.settings.changed]

    def is_served_by(self, running: Serving) -> bool:
        """Return whether a server started for `running` will do.

        `image` None accepts any. A server that follows a file has its models from there.
        """
        models = self.models if self.config is None else running.models
        return replace(self, image=self.image or running.image, models=models) == running

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`: flat as ever, but for a server that a file describes."""
        config = self.config
        models = [model.to_json() for model in self.models]
        return {
            **(models[0] if config is None else {"models": models}),
            "settings": self.settings.to_json(),
            "image": self.image,
            "docker_options": list(self.docker_options),
            "config": config and {"path": str(config.path), "server": config.server},
            "cluster": self.cluster.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Serving:
        """Read what `to_json` wrote, also in an older version of mlserve.

        Raises KeyError, TypeError, ValueError, or UsageError for data of another shape.
        """
        settings, config = data.get("settings", {}), data.get("config")
        # Described by options, it has one model, and `allow_unsafe_ops` was a setting once.
        models = data.get("models", [{**settings, **data}])
        return cls(
            models=tuple(map(ServedModel.from_json, models)),
            settings=ServerSettings.from_json(settings),
            image=data.get("image"),
            docker_options=tuple(map(str, data.get("docker_options", ()))),
            config=config and ConfigEntry(Path(config["path"]), str(config["server"])),
            cluster=ClusterOptions.from_json(data.get("cluster", {})),
        )
