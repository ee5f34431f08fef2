"""timm's data configuration: `resolve_data_config`, or the `pretrained_cfg` of a `config.json`.

The rules are those of timm 1.0: `resolve_data_config` in `timm.data.config`, and
`transforms_imagenet_eval` in `timm.data.transforms_factory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlserve.images import RGB
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import ResizeMode
from mlserve.preprocessors.preprocessor import UNIT, Preprocessor, Reader
from mlserve.preprocessors.torchvision import transformed

_DEFAULTS: Mapping[str, Any] = {
    "input_size": (RGB, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
_NAMES = {
    name: name for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming", "random")
}
_MODES = {"center": ResizeMode.SHORTEST_EDGE, "squash": ResizeMode.DIRECT}


def is_timm(data: Mapping[str, Any]) -> bool:
    """Return whether the data is that of a `config.json` of timm, or its `pretrained_cfg`."""
    return "pretrained_cfg" in data or {"crop_pct", "input_size", "mean"} <= set(data)


def read(data: Mapping[str, Any], name: str) -> Preprocessor:
    """Return what the configuration says. Raises ExportError for what mlserve cannot do.

    Sizes are those of `input_size`; timm uses `test_input_size` only if it is asked to.
    """
    config = data.get("pretrained_cfg", data)
    if not isinstance(config, Mapping):
        raise Reader(name, data).refused("pretrained_cfg", "not an object")
    given = {key: config[key] for key in _DEFAULTS if config.get(key)}
    reader = Reader(name, {**_DEFAULTS, **given})
    size = reader.data["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] != RGB:  # noqa: PLR2004
        raise reader.refused("input_size", f"not [{RGB}, height, width]")
    height, width = (reader.side("input_size", side) for side in size[1:])
    mode = _MODES.get(str(reader.data["crop_mode"]))
    if mode is None:
        raise reader.refused("crop_mode", f"mlserve has {' and '.join(_MODES)}")
    sizes = PixelOptions(mode=mode, crop=reader.fraction("crop_pct"), input=(height, width))
    pixels = transformed(reader, sizes, _NAMES)
    labels: Any = data.get("label_names") or config.get("label_names")
    is_named = isinstance(labels, list | tuple) and bool(labels)
    return Preprocessor(
        name,
        pixels,
        UNIT,
        tuple(map(str, labels)) if is_named else None,
        f"label_names in {name}",
    )
