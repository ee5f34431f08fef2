"""mlserve's own launchers of processes, and the choice of the one to use.

A container is not a process of ours: `mlserve.launch.docker` runs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from mlserve import otlp, plugins
from mlserve.backend import Backend, Listen, ServerSpec
from mlserve.backend_choice import require_regarded, require_runtime
from mlserve.distributions import SERVER_HINT, not_installed
from mlserve.errors import MlserveError, PluginError, UsageError, reason_of
from mlserve.launcher import NO_TRAITS, Launcher, ServerCommand, Traits, own_command
from mlserve.options import flag_of
from mlserve.serving import Serving
from mlserve.settings import AUTO, DOCKER, EMBEDDED, NATIVE

_NOWHERE = Listen("127.0.0.1", 0, 0)
"""Placeholder for checks made before the ports are known."""
_USE_EMBEDDED = f"use --launcher {EMBEDDED}"


class Embedded(Launcher):
    """mlserve's own server."""

    name = EMBEDDED
    summary = "mlserve's own server, with the backend's library."
    install_hint = SERVER_HINT
    traits = Traits(is_own=True, drains=True, follows_pin=True, follows_file=True)

    def require(self, serving: Serving) -> None:
        for model in serving.models:
            require_runtime(plugins.backend(model.backend))
        if serving.settings.otlp is not None:
            otlp.require_sdk()

    def command(self, serving: Serving, listen: Listen) -> ServerCommand:
        return own_command(serving, listen)


class Native(Launcher):
    """The runtime's own server, an executable on PATH; SIGTERM ends it at once."""

    name = NATIVE
    summary = "The runtime's own server, if it is on PATH."
    install_hint = "`mlserve doctor` names the executables that the backends know"
    traits = NO_TRAITS

    def require(self, serving: Serving) -> None:
        if serving.changed:
            raise UsageError(
                f"the native launcher does not take {flag_of(serving.changed[0])}",
                hint=_USE_EMBEDDED,
            )
        if serving.only.versions.serves_all:
            raise UsageError(
                "the native launcher cannot follow all versions",
                hint=f"name them (--version 1 --version 2), or {_USE_EMBEDDED}",
            )
        specs = _native_specs(serving)
        if not _is_on_path(specs):
            raise _no_native(serving.only.backend, specs)

    def command(self, serving: Serving, listen: Listen) -> ServerCommand:
        specs = _native_specs(serving, listen)
        spec = next((s for s in specs if shutil.which(s.executable)), None)
        if spec is None:
            raise _no_native(serving.only.backend, specs)
        executable = shutil.which(spec.executable) or spec.executable
        return ServerCommand(
            (executable, *spec.argv),
            spec.env,
            spec.files,
            spec.listens_everywhere,
            spec.follows_versions,
            spec.longest_folder,
        )


_OWN: Mapping[str, Launcher] = MappingProxyType({EMBEDDED: Embedded(), NATIVE: Native()})


def launcher_named(name: str) -> Launcher:
    """Return the launcher of processes of that name: mlserve's own or a plugin's.

    Raises NotFound for an unknown name, PluginError for a broken plugin.
    """
    return _OWN[name] if name in _OWN else plugins.launcher(name)


def traits_of(name: str) -> Traits:
    """Return the traits of servers of that launcher, also of `docker`; raises as the above."""
    return NO_TRAITS if name == DOCKER else launcher_named(name).traits


def check_launcher(name: str) -> None:
    """Raise NotFound for a launcher that does not exist, and PluginError for a broken plugin."""
    if name != AUTO:
        traits_of(name)


def launcher_for(backends: Sequence[Backend], serving: Serving, wanted: str) -> str:
    """Return the launcher to use; `auto` is native if its executable is on PATH, else embedded.

    `backends` are those of the models, in their order. Raises PluginError if something the launcher
    needs is not installed, NotFound for an unknown launcher, and UsageError if the backend, the
    versions or the options are not supported by it.
    """
    for backend, model in zip(backends, serving.models, strict=True):
        require_regarded(backend, model.options)
    if wanted == AUTO:
        wanted = NATIVE if _suits_native(serving) else EMBEDDED
    traits = traits_of(wanted)
    _require_cluster(serving, wanted, traits)
    _require_following(serving, wanted, traits)
    if wanted == DOCKER:
        _require_no_ladder(serving)
        _require_no_second_version(serving)  # mlserve.launch.docker reports what else it needs
        return wanted
    launcher = launcher_named(wanted)
    absent = plugins.absent_modules(launcher.requires)
    if absent:
        raise not_installed(f"the {wanted} launcher", *absent, hint=launcher.install_hint)
    with _faults_named(wanted, "require"):
        launcher.require(serving)
    return wanted


def command_of(name: str, serving: Serving, listen: Listen) -> ServerCommand:
    """Return the process that this launcher starts. Raises PluginError, and what it raises."""
    launcher = launcher_named(name)
    with _faults_named(name, "command"):
        return launcher.command(serving, listen)


@contextmanager
def _faults_named(name: str, method: str) -> Iterator[None]:
    """Name the plugin for what its launcher raises, unless that is an error for the user."""
    try:
        yield
    except MlserveError:
        raise
    except Exception as error:
        if name in _OWN:
            raise
        raise plugins.fault_of(name, f"fails in {method}: {reason_of(error)}") from error


def _require_cluster(serving: Serving, wanted: str, traits: Traits) -> None:
    """Raise UsageError for options of a cluster, if the launcher has none."""
    if serving.cluster.changed and not traits.has_replicas:
        flag = flag_of(next(iter(serving.cluster.changed)))
        raise UsageError(
            f"{flag} is for a server of several replicas, and the {wanted} launcher starts one",
            hint="add --launcher ray, or leave it out",
        )


def _require_following(serving: Serving, wanted: str, traits: Traits) -> None:
    """Raise UsageError for a launcher whose servers do not follow a configuration file."""
    if serving.config is not None and not traits.follows_file:
        raise UsageError(
            f"the {wanted} launcher does not serve [servers.{serving.config.server}] of "
            f"{serving.config.path}: its servers have one model, and do not follow the file",
            hint="use --launcher embedded, or name the model: mlserve up --backend NAME --model "
            f"NAME --launcher {wanted}",
        )


def _require_no_ladder(serving: Serving) -> None:
    """Raise UsageError for a ladder in a container, which sees the folder of one model only."""
    if serving.only.options.ladder is not None:
        raise UsageError(
            "the docker launcher does not take --ladder: its containers have one model's folder",
            hint=_USE_EMBEDDED,
        )


def _require_no_second_version(serving: Serving) -> None:
    """Raise UsageError for a second version in a container, whose image holds one."""
    for flag in serving.settings.rollout.flags:
        raise UsageError(
            f"the docker launcher does not take {flag}: an image holds one version",
            hint=f"{_USE_EMBEDDED}, or ask a container of the other version: --shadow ENDPOINT",
        )


def _suits_native(serving: Serving) -> bool:
    """Return whether `auto` is native; one with options of a cluster is told to name a launcher."""
    if serving.config is not None or serving.changed or serving.only.versions.serves_all:
        return False
    return _is_on_path([s for s in _native_specs(serving) if not s.only_on_request])


def _native_specs(serving: Serving, listen: Listen = _NOWHERE) -> list[ServerSpec]:
    model, backend = serving.only, plugins.backend(serving.only.backend)
    specs = backend.external_servers(model.base_path, model.model, model.versions.versions, listen)
    return [spec for spec in specs if spec.launcher == NATIVE]


def _is_on_path(specs: Sequence[ServerSpec]) -> bool:
    return any(shutil.which(spec.executable) for spec in specs)


def _no_native(backend: str, specs: Sequence[ServerSpec]) -> PluginError | UsageError:
    if not specs:
        return UsageError(f"the backend {backend!r} has no third-party server", hint=_USE_EMBEDDED)
    names = " or ".join(spec.executable for spec in specs)
    return PluginError(f"{names} is not on PATH", hint=specs[0].install_hint)
