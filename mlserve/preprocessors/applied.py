"""Fill a request to export from a preprocessor; what was given on the command line wins."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Arithmetic, ResizeMode
from mlserve.preprocessors.preprocessor import Preprocessor
from mlserve.sources import ModelRequest

_GEOMETRY = ("mode", "size", "crop")
"""The fields that only make sense together: one on the command line replaces them all."""


def applied(request: ModelRequest, found: Preprocessor) -> ModelRequest:
    """Return the request with everything that the preprocessor knows and the user did not give."""
    pixels = merged(request.pixels, found.pixels)
    has_labels = request.labels is None and found.labels is not None
    if request.scale not in (None, found.scale):
        # The order of the operations was that of another scale.
        pixels = replace(pixels, arithmetic=Arithmetic.DIVIDE)
        pixels = _noting(pixels, "scale", f"{found.scale[0]:g}..{found.scale[1]:g}", found.name)
    return replace(
        request,
        pixels=pixels,
        scale=request.scale or found.scale,
        labels=found.labels if has_labels else request.labels,
        labels_origin=found.labels_name if has_labels else "",
    )


def merged(given: PixelOptions, found: PixelOptions) -> PixelOptions:
    """Return the options of the command line, the rest from the preprocessor.

    The facts of what was given say what it replaces.
    """
    name = next(iter(found.origins.values()))
    replaces = {field for field in given.given if field in found.given}
    if any(field in given.given for field in _GEOMETRY):
        replaces |= {field for field in _GEOMETRY if field in found.given}
        found = replace(found, mode=None, size=None, crop=None, input=None, fill=())
    if given.interpolation is not None and given.antialias is None:
        # Pillow, which these libraries resize with, decides by the filter.
        found = replace(found, antialias=given.interpolation.has_antialias)
    values = {
        field.name: getattr(given if field.name in given.given else found, field.name)
        for field in fields(PixelOptions)
    }
    origins = {key: origin for key, origin in found.origins.items() if key not in given.given}
    result = PixelOptions(**values | {"origins": origins})
    for field in sorted(replaces.intersection(given.given)):
        result = _noting(result, field, _shown(getattr(found, field)), name)
    return result


def _noting(pixels: PixelOptions, field: str, value: str, name: str) -> PixelOptions:
    """Return the options with a note that a flag takes the place of the preprocessor's value."""
    origins = {key: origin for key, origin in pixels.origins.items() if key != field}
    note = f"instead of {value} in {name}" if value else f"instead of what {name} says"
    return replace(pixels, origins=origins, notes={**pixels.notes, field: note})


def _shown(value: Any) -> str:
    if value is None or isinstance(value, ResizeMode):
        return ""
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
