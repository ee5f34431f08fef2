"""Read, check and apply TensorFlow Serving's model configuration, also while serving.

The accepted content and the error messages are those of TensorFlow Serving's server_core.cc.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from mlserve.backend import Backend
from mlserve.background import run_on_daemon_thread
from mlserve.errors import InvalidInput, MlserveError, NotYet, UsageError, shortened
from mlserve.load_options import LoadOptions
from mlserve.rollout import NO_ROLLOUT, RolloutOptions
from mlserve.server.models.models import Models
from mlserve.server.models.versions import LoadRetries, ModelSpec
from mlserve.store import VersionPolicy
from mlserve.wire.proto._pool import POOL
from mlserve.wire.proto.model_config_pb2 import (
    ModelConfig,
    ModelServerConfig,
    ModelType,
)

_log = logging.getLogger(__name__)

PLATFORM = "tensorflow"
_LONGEST_NAME = 255
"""The maximum characters of a model name or label: they appear in URLs, logs and metrics."""
_LONGEST_PATH = 4096
"""The maximum characters of a path; Linux's own limit is as many bytes."""
Config = TypeVar("Config", bound=Message)


@dataclass(frozen=True, slots=True)
class ServingDefaults:
    """How to load and follow each model, which a model configuration does not say."""

    backend: Backend
    options: LoadOptions
    poll_seconds: float
    retries: LoadRetries


@dataclass(frozen=True, slots=True)
class ConfigReload:
    """Replaces a server's models: by request, and from `path` if that is given.

    The file is read again every `poll_seconds`; 0 reads it only at the start. Unless
    `allows_early_labels`, a label may only refer to a version that is already served. `rollout`
    says what a second version is for, where there is one model.
    """

    defaults: ServingDefaults
    allows_early_labels: bool = False
    path: Path | None = None
    poll_seconds: float = 0.0
    rollout: RolloutOptions = NO_ROLLOUT

    def first_models(self, config: ModelServerConfig) -> tuple[ModelSpec, ...]:
        """Return the models to start with. Raises InvalidInput, NotYet for a label."""
        specs = self._specs(config)
        for spec in specs:
            self._check_labels(spec, None)
        return specs

    async def apply(self, config: ModelServerConfig, models: Models) -> None:
        """Serve the models of the configuration and no others.

        Raises InvalidInput and NotYet, which change nothing, and ModelLoadFailed for models that
        could not be loaded, while the others are served.
        """
        specs = self._specs(config)
        for spec in specs:
            self._check_labels(spec, models)
        await models.serve(specs)

    async def follow(self, models: Models) -> None:
        """Poll the file and apply it; return at once if polling is off."""
        path, problem = self.path, ""
        while path is not None and self.poll_seconds > 0:
            await asyncio.sleep(self.poll_seconds)
            try:
                config = await run_on_daemon_thread(read_text, path, ModelServerConfig)
                if config.WhichOneof("config") is not None:
                    await self.apply(config, models)
                problem = ""
            except MlserveError as error:
                if error.message != problem:  # repeating it every second adds nothing
                    _log.error("the model configuration is not in force: %s", error.message)
                problem = error.message

    def _specs(self, config: ModelServerConfig) -> tuple[ModelSpec, ...]:
        if config.WhichOneof("config") == "custom_model_config":
            raise InvalidInput("custom_model_config is not supported; give a model_config_list")
        specs: dict[str, ModelSpec] = {}
        for entry in config.model_config_list.config:
            _check_texts(entry)
            if entry.name in specs:
                raise InvalidInput(
                    f"Illegal to list model {entry.name} multiple times in config list"
                )
            specs[entry.name] = self._spec(entry)
        for key in self.rollout.changed if len(specs) > 1 else ():
            raise InvalidInput(
                f"--{key} is for a version of one model, and {len(specs)} are configured",
                hint="leave it out, or serve that model by itself",
            )
        return tuple(specs.values())

    def _spec(self, entry: ModelConfig) -> ModelSpec:
        _check_platform(entry)
        defaults = self.defaults
        return ModelSpec(
            defaults.backend,
            entry.name,
            _base_path(entry),
            replace(_policy(entry), aside=self.rollout.aside),
            defaults.options,
            defaults.poll_seconds,
            dict(entry.version_labels),
            defaults.retries,
            awaits_versions=True,
            rollout=self.rollout,
        )

    def _check_labels(self, spec: ModelSpec, models: Models | None) -> None:
        for label, version in spec.labels.items():
            now = None if models is None else models.labels_of(spec.model).get(label)
            if self.allows_early_labels and now in (None, version):
                continue
            if models is None or not models.is_available(spec.model, version):
                raise NotYet(
                    f"Request to assign label to version {version} of model {spec.model}, "
                    "which is not currently available for inference",
                    hint="assign it once the version is served, or start the server with "
                    "--allow_version_labels_for_unavailable_models, which holds for new labels",
                )


def read_text(path: Path, kind: type[Config]) -> Config:
    """Parse the text-format message in a file. Raises UsageError, naming line and column."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    try:
        return text_format.Parse(text, kind(), descriptor_pool=POOL)
    except text_format.ParseError as error:
        raise UsageError(
            f"Invalid protobuf file: '{path}': Error parsing text-format "
            f"{kind.DESCRIPTOR.full_name}: {error}",
            hint=f"it is the text form of a {kind.DESCRIPTOR.full_name}",
        ) from error


def config_of(name: str, base_path: str) -> ModelServerConfig:
    """Return the configuration of one model, of which the latest version is served."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def _check_texts(entry: ModelConfig) -> None:
    """Raise InvalidInput for a name unfit for logs or URLs, or an invalid path."""
    if not entry.name:
        raise InvalidInput(f"the model of base_path '{shortened(entry.base_path)}' has no name")
    for what, text, longest in (
        ("model name", entry.name, _LONGEST_NAME),
        ("base_path", entry.base_path, _LONGEST_PATH),
        *(("version label", label, _LONGEST_NAME) for label in entry.version_labels),
    ):
        if len(text) > longest:
            raise InvalidInput(
                f"'{shortened(text)}' is not a valid {what}: it has {len(text)} characters, and "
                f"may have {longest}"
            )
        if not text.isprintable():
            raise InvalidInput(
                f"'{shortened(text)}' is not a valid {what}: it has characters that cannot be "
                "printed"
            )


def _check_platform(entry: ModelConfig) -> None:
    given = ModelType.Name(entry.model_type) if entry.model_type else ""
    if given and entry.model_platform:
        raise InvalidInput(
            f"Illegal setting both model_type (deprecated) and model_platform of {entry.name}"
        )
    platform = given.lower() or entry.model_platform or PLATFORM
    if platform != PLATFORM:
        raise InvalidInput(
            f"Model {entry.name} requests unsupported platform {shortened(platform)}; there is: "
            f"{PLATFORM}"
        )


def _base_path(entry: ModelConfig) -> Path:
    path = Path(entry.base_path)
    if "://" in entry.base_path or not path.is_absolute():
        raise InvalidInput(
            f"Expected model {entry.name} to have an absolute path; got base_path()="
            f"{shortened(entry.base_path)}",
            hint="give the path of a folder on this machine, beginning with /",
        )
    return path


def _policy(entry: ModelConfig) -> VersionPolicy:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(serves_all=True)
    if choice == "specific":
        if not policy.specific.versions:
            raise InvalidInput(f"the specific version policy of {entry.name} names no version")
        return VersionPolicy(_ascending(policy.specific.versions))
    return VersionPolicy(latest=policy.latest.num_versions or 1)


def _ascending(versions: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(set(versions)))
