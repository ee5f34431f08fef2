"""The hooks of this plugin."""

from __future__ import annotations

from mlserve.plugins import hookimpl
from mlserve_ray.launcher import RayLauncher


@hookimpl
def mlserve_launcher() -> type[RayLauncher]:
    return RayLauncher
