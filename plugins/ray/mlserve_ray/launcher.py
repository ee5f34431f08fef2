"""`--launcher ray`: the front of a server whose replicas Ray places, as the process of the server.

The front (`python -m mlserve_ray`) takes the flags of mlserve's own server and those of the
cluster. This module imports no Ray: every `mlserve` command may load it.
"""

from __future__ import annotations

from mlserve import otlp, plugins
from mlserve.backend import Listen
from mlserve.backend_choice import require_runtime
from mlserve.distributions import install_command
from mlserve.errors import UsageError
from mlserve.launcher import Launcher, ServerCommand, Traits, own_command
from mlserve.options import flag_of
from mlserve.serving import Serving
from mlserve.settings import ModelControl
from mlserve_ray.room import require_room_here

_MODULE = "mlserve_ray"
_END_SECONDS = 30.0
"""Seconds, after the requests are finished, for the replicas and a local Ray to end."""
_ONE_MACHINE = ("grpc_socket", "rest_socket")
"""Settings of a server that is one process."""
_COUNTED = ("shadow", "shadow_token_file", "split")
"""Settings of a server that compares versions by itself."""


class RayLauncher(Launcher):
    """Replicas on the machines of a Ray cluster, behind one address."""

    name = "ray"
    summary = "Replicas on the machines of a Ray cluster, behind one address (--replicas)."
    install_hint = install_command("mlserve-ray")
    requires = ("ray", "envoy")
    traits = Traits(
        is_own=True, drains=True, follows_pin=True, has_replicas=True, end_seconds=_END_SECONDS
    )

    def require(self, serving: Serving) -> None:
        """Raise UsageError for what replicas cannot do, PluginError for a missing runtime.

        With `--address`, the runtime has to be on the machines of the cluster, not here. Without,
        this raises Unavailable if this machine has no room for the replicas.
        """
        if serving.only.options.ladder is not None:
            raise _is_not_taken("ladder", "a replica has the versions of one model")
        for name in _ONE_MACHINE:
            if name in serving.settings.changed:
                raise _is_not_taken(name, "its replicas are on several machines")
        for name in _COUNTED:
            if name in serving.settings.changed:
                raise _is_not_taken(name, "each replica would compare and stop by itself")
        if serving.settings.model_control is ModelControl.ON:
            raise _is_not_taken("model_control", "a request reaches one replica, not all")
        if serving.cluster.address is None:
            require_runtime(plugins.backend(serving.only.backend))
            if serving.settings.otlp is not None:
                otlp.require_sdk()
            require_room_here(serving.cluster)

    def command(self, serving: Serving, listen: Listen) -> ServerCommand:
        more = (*serving.cluster.argv(), "--name", serving.name)
        return own_command(serving, listen, _MODULE, *more)


def _is_not_taken(name: str, why: str) -> UsageError:
    flag = flag_of(name)
    return UsageError(
        f"the ray launcher does not take {flag}: {why}",
        hint="leave it out, or use --launcher embedded",
    )
