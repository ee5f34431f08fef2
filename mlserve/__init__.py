"""Export one model to several runtimes, serve it, and query it within a deadline.

    from mlserve import Client
    Client("127.0.0.1:8500").predict("horse.jpg", timeout=5).label

The names below are the public API. They are imported on first use, so that `import mlserve` costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserve.client import AsyncClient as AsyncClient
    from mlserve.client import Client as Client
    from mlserve.client import ModelMetadata as ModelMetadata
    from mlserve.client import Prediction as Prediction
    from mlserve.client import Retries as Retries
    from mlserve.client import Retry as Retry
    from mlserve.client import Score as Score
    from mlserve.client import ServerLoad as ServerLoad
    from mlserve.client import Timings as Timings
    from mlserve.client import Tls as Tls
    from mlserve.client import VersionStatus as VersionStatus
    from mlserve.client.outputs import Outputs as Outputs
    from mlserve.deadline import Deadline as Deadline
    from mlserve.errors import AccessDenied as AccessDenied
    from mlserve.errors import BuildFailed as BuildFailed
    from mlserve.errors import DeadlineExceeded as DeadlineExceeded
    from mlserve.errors import ExportError as ExportError
    from mlserve.errors import InferenceFailed as InferenceFailed
    from mlserve.errors import InputTooLarge as InputTooLarge
    from mlserve.errors import InvalidInput as InvalidInput
    from mlserve.errors import MlserveError as MlserveError
    from mlserve.errors import ModelLoadFailed as ModelLoadFailed
    from mlserve.errors import NotAllowed as NotAllowed
    from mlserve.errors import NotAnImage as NotAnImage
    from mlserve.errors import NotFound as NotFound
    from mlserve.errors import NotSupported as NotSupported
    from mlserve.errors import NotYet as NotYet
    from mlserve.errors import Overloaded as Overloaded
    from mlserve.errors import PluginError as PluginError
    from mlserve.errors import Transient as Transient
    from mlserve.errors import Unavailable as Unavailable
    from mlserve.errors import UsageError as UsageError

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "BuildFailed",
    "Client",
    "Deadline",
    "DeadlineExceeded",
    "ExportError",
    "InferenceFailed",
    "InputTooLarge",
    "InvalidInput",
    "MlserveError",
    "ModelLoadFailed",
    "ModelMetadata",
    "NotAllowed",
    "NotAnImage",
    "NotFound",
    "NotSupported",
    "NotYet",
    "Outputs",
    "Overloaded",
    "PluginError",
    "Prediction",
    "Retries",
    "Retry",
    "Score",
    "ServerLoad",
    "Timings",
    "Tls",
    "Transient",
    "Unavailable",
    "UsageError",
    "VersionStatus",
    "__version__",
]
_HOMES = ("mlserve.errors", "mlserve.deadline", "mlserve.client", "mlserve.client.outputs")
"""The modules searched for a name, the cheapest to import first."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for home in _HOMES:
        module = import_module(home)
        if hasattr(module, name):
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"{name!r} is in none of {', '.join(_HOMES)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
