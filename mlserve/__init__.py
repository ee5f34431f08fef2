"""mlserve: export one model to several runtimes, serve it, and ask it one question in time.

    from mlserve import Client
    Client("127.0.0.1:8500").predict(Path("horse.jpg"), timeout=5).label

The names below are the public API. They are imported when they are first used, so that
`import mlserve` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.client import AsyncClient as AsyncClient
    from mlserve.client import Client as Client
    from mlserve.client import Prediction as Prediction
    from mlserve.errors import MlserveError as MlserveError

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "mlserve.client",
    "Client": "mlserve.client",
    "Prediction": "mlserve.client",
    "MlserveError": "mlserve.errors",
}
__all__ = ["AsyncClient", "Client", "MlserveError", "Prediction", "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
