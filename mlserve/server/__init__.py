"""The server kit: serves any Runner over two protocols, each on gRPC and on REST.

    TensorFlow Serving v1    tfs.grpc, tfs.rest ─┐
                                                 ├─> Engine ──> Runner.run
    Open Inference v2        oip.grpc, oip.rest ─┘

`parts` puts them together. Started as `python -m mlserve.server` (`app`), or mounted in an ASGI
application: `mlserve.server.mount` is in `mlserve.asgi`, and imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.asgi.mount import mount as mount


def __getattr__(name: str) -> Any:
    if name != "mount":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlserve.asgi.mount import mount

    return mount
