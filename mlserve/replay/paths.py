"""The paths of recorded requests: which model they name, and the same request for another one."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from mlserve.recording.records import Kind

_MARKS = "%/:@!$&'()*+,;="
"""What a path may hold as it is, besides letters, digits and `-._~` (RFC 3986, section 3.3)."""
_REST = re.compile(
    r"/(?P<api>v1|v2)/models/(?P<model>[^/:]+)"
    r"(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<verb>:[a-zA-Z]+|/infer)/?$",
    re.IGNORECASE,
)


def model_asked(kind: Kind) -> str:
    """Return the model that a request was for; empty if that is not known.

    A request that was refused by its head alone names its model over REST only, in its path.
    """
    if kind.model or kind.transport != "rest":
        return kind.model
    found = _REST.search(kind.path)
    return unquote(found["model"]) if found else ""


def verb_of(kind: Kind) -> str:
    """Return what was asked of the model: the gRPC method, or the end of the path over REST."""
    if kind.transport == "grpc":
        return kind.path.rpartition("/")[2]
    found = _REST.search(kind.path)
    return found["verb"].lower().strip(":/") if found else kind.path


def path_for(kind: Kind, model: str | None, version: int | None) -> str:
    """Return the path of the same request over REST, for that model and version.

    None leaves what was asked. The part of the path before `/v1` or `/v2` belongs to the server
    that was recorded, and is left out. A gRPC method names no model.
    """
    found = _REST.search(kind.path)
    if kind.transport == "grpc" or found is None:
        return _escaped(kind.path)
    place = f"/{found['api']}/models/{found['model'] if model is None else quote(model, safe='')}"
    if version is not None:
        place += f"/versions/{version}"
    elif found["version"] is not None:
        place += f"/versions/{found['version']}"
    elif found["label"] is not None:
        place += f"/labels/{found['label']}"
    return _escaped(place + found["verb"])


def _escaped(path: str) -> str:
    """Return the path without what would end it: not every recording is written by a server."""
    return quote(path, safe=_MARKS)
