"""Hugging Face's `preprocessor_config.json`, old feature extractors included.

The rules are those of transformers 5.24: `image_processing_backends.py` and the image processor of
each model. Its two backends differ in the last bit and in the padding of small images: PilBackend
is the processor of transformers 4 that had no suffix, TorchvisionBackend the one named `...Fast`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlserve.errors import ExportError
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Arithmetic, Channels, CropOffset, ResizeMode
from mlserve.preprocessors.preprocessor import (
    BY_HAND,
    RAW,
    Preprocessor,
    Reader,
    require_known,
    with_origin,
)

_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""`PIL.Image.Resampling`; 1 is also that of the old `ANTIALIAS`."""
_WITHOUT_EFFECT = (
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "do_reduce_labels",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "reduce_labels",
    "return_tensors",
    "transformers_version",
)
"""Keys that change no pixel of an RGB image: `do_reduce_labels` is about segmentation maps."""
_WITH_EFFECT = (
    "crop_size",
    "default_to_square",
    "do_center_crop",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)
_HALF, _IMAGENET = ([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = (
    [0.48145466, 0.4578275, 0.40821073],
    [0.26862954, 0.26130258, 0.27577711],
)
_BILINEAR, _BICUBIC = 2, 3
_CONVNEXT_WARPS = 384
"""From this size on ConvNeXT's processor resizes to a square and cuts nothing."""


def _defaults(
    size: int,
    mean_std: tuple[list[float], list[float]],
    *,
    is_square: bool = True,
    crop: int | None = None,
    resample: int = _BICUBIC,
    **more: Any,
) -> dict[str, Any]:
    mean, std = mean_std
    edges = {"height": size, "width": size} if is_square else {"shortest_edge": size}
    common = {
        "size": edges,
        "default_to_square": is_square,
        "resample": resample,
        "do_resize": True,
        "do_center_crop": crop is not None,
        "crop_size": crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    return common | more


_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "Beit": _defaults(224, _HALF) | {"crop_size": 224},
    "Bit": _defaults(224, _CLIP, is_square=False, crop=224),
    "CLIP": _defaults(224, _CLIP, is_square=False, crop=224),
    "ConvNext": _defaults(384, _HALF, is_square=False, crop_pct=224 / 256),
    "DeiT": _defaults(256, _HALF, crop=224),
    "EfficientNet": _defaults(346, _HALF, rescale_offset=False, include_top=True)
    | {"crop_size": 289},
    "Levit": _defaults(224, _IMAGENET, is_square=False, crop=224),
    "MobileNetV1": _defaults(256, _HALF, is_square=False, crop=224, resample=_BILINEAR),
    "MobileNetV2": _defaults(256, _HALF, is_square=False, crop=224, resample=_BILINEAR),
    "MobileViT": _defaults(224, _HALF, is_square=False, crop=256, do_flip_channel_order=True)
    | {"do_normalize": False},
    "PoolFormer": _defaults(224, _IMAGENET, is_square=False, crop=224, crop_pct=0.9),
    "Pvt": _defaults(224, _IMAGENET),
    "Segformer": _defaults(512, _IMAGENET, resample=_BILINEAR),
    "Siglip": _defaults(224, _HALF),
    "ViT": _defaults(224, _HALF, resample=_BILINEAR),
}
"""What each class of image processors does where the file says nothing: its class attributes.

ResNet, RegNet and ConvNeXT V2 use ConvNext's; Swin uses ViT's; DINOv2 and FocalNet use Bit's.
"""
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The mode, what an image is resized to, and what comes out: None if it depends on the image.

    The numbers are (height, width).
    """

    mode: ResizeMode
    resized: tuple[int, int]
    result: tuple[int, int] | None


def read(data: Mapping[str, Any], name: str) -> Preprocessor:
    """Return what the file says. Raises ExportError for what mlserve cannot do, naming the key."""
    kind, suffix = _class(data, name)
    given = {key: value for key, value in data.items() if value is not None}
    defaults = _CLASSES[kind]
    reader = Reader(name, {**defaults, **given})
    require_known(name, data, (*_WITHOUT_EFFECT, *_WITH_EFFECT, *defaults))
    if not reader.flag("do_resize"):
        raise reader.refused(
            "do_resize", "images keep their size, and the model's input has one", BY_HAND
        )
    sizes = _cut(reader, _resized(kind, reader))
    if sizes.result is None:
        raise reader.refused(
            "size", "the ratio is kept and nothing is cut, so no two images fit a batch"
        )
    is_fast = suffix == "ImageProcessorFast"
    scale, mean, std, arithmetic = _numbers(kind, reader, is_fast=is_fast)
    flips = "do_flip_channel_order" in defaults and reader.flag("do_flip_channel_order")
    interpolation = reader.interpolation("resample", _PILLOW)
    pixels = PixelOptions(
        channels=Channels.BGR if flips else Channels.RGB,
        mode=sizes.mode,
        size=sizes.resized,
        interpolation=interpolation,
        antialias=interpolation.has_antialias,
        mean=mean,
        std=std,
        crop_offset=CropOffset.FLOOR if is_fast else CropOffset.FLOOR_PAD_MORE,
        arithmetic=arithmetic,
        input=sizes.result,
    )
    pixels = replace(pixels, origins=with_origin(pixels, name))
    return Preprocessor(name, pixels, scale)


def _class(data: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the class of image processors, `ViT`, and its suffix, `ImageProcessorFast`."""
    said = data.get("image_processor_type") or data.get("feature_extractor_type")
    known = ", ".join(_CLASSES)
    if not isinstance(said, str):
        raise ExportError(
            f"{name} has no image_processor_type, which decides on the rules",
            hint=f"add it to the file, such as ViTImageProcessor (mlserve knows {known})",
        )
    for suffix in _SUFFIXES:
        kind = said.removesuffix(suffix)
        if kind != said and kind in _CLASSES:
            return kind, suffix
    raise ExportError(
        f"{name} is for the image processor {said:.100}, whose rules mlserve does not know",
        hint=f"it knows those of {known}; {BY_HAND}",
    )


def _resized(kind: str, reader: Reader) -> _Sizes:
    edge, size = _edges(reader, "size", is_square=reader.flag("default_to_square"))
    if kind == "ConvNext":
        return _convnext(reader, edge)
    if kind == "Levit" and edge is not None:
        edge = int(256 / 224 * edge)
    if kind == "PoolFormer" and reader.has("crop_pct"):
        if size is not None and size[0] != size[1]:
            raise reader.refused("size", "not a square")
        edge, size = int((edge or (size or (0,))[0]) / reader.fraction("crop_pct")), None
    if size is not None:
        return _Sizes(ResizeMode.DIRECT, size, size)
    shorter = reader.side("size", edge)
    return _Sizes(ResizeMode.SHORTEST_EDGE, (shorter, shorter), None)


def _convnext(reader: Reader, edge: int | None) -> _Sizes:
    """Return the sizes of ConvNeXT's processor, which cuts by itself."""
    if edge is None:
        raise reader.refused("size", "this image processor needs {'shortest_edge': N}")
    if edge >= _CONVNEXT_WARPS:
        return _Sizes(ResizeMode.DIRECT, (edge, edge), (edge, edge))
    larger = int(edge / reader.fraction("crop_pct"))
    return _Sizes(ResizeMode.SHORTEST_EDGE, (larger, larger), (edge, edge))


def _cut(reader: Reader, sizes: _Sizes) -> _Sizes:
    """Return the sizes after the centre crop, if there is one."""
    if not reader.flag("do_center_crop"):
        return sizes
    edge, crop = _edges(reader, "crop_size", is_square=True)
    if crop is None:
        raise reader.refused(
            "crop_size", f"a crop needs a height and a width, not an edge of {edge}"
        )
    if sizes.result not in (None, crop) and sizes.result != sizes.resized:
        raise reader.refused("crop_size", f"the image is already cut to {sizes.result}")
    return replace(sizes, result=crop)


def _edges(
    reader: Reader, key: str, *, is_square: bool
) -> tuple[int | None, tuple[int, int] | None]:
    """Return the length of the shortest edge, or (height, width); the other is None."""
    value = reader.data.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        side = reader.side(key, value)
        return (None, (side, side)) if is_square else (side, None)
    if isinstance(value, list | tuple) and len(value) == 2:  # noqa: PLR2004
        return None, (reader.side(key, value[0]), reader.side(key, value[1]))
    known = {} if not isinstance(value, Mapping) else {k: v for k, v in value.items() if v}
    if set(known) == {"height", "width"}:
        return None, (reader.side(key, known["height"]), reader.side(key, known["width"]))
    if set(known) == {"shortest_edge"}:
        return reader.side(key, known["shortest_edge"]), None
    if "longest_edge" in known:
        raise reader.refused(
            key, "with a longest edge, images of different shapes do not fit a batch"
        )
    raise reader.refused(key, "neither a number nor {'height', 'width'} nor {'shortest_edge'}")


def _numbers(
    kind: str, reader: Reader, *, is_fast: bool
) -> tuple[tuple[float, float], tuple[float, ...], tuple[float, ...], Arithmetic]:
    """Return scale, mean, std and the order of the arithmetic."""
    rescales, normalizes = reader.flag("do_rescale"), reader.flag("do_normalize")
    if kind == "MobileViT" and normalizes:
        raise reader.refused("do_normalize", "this image processor never normalizes")
    mean = reader.numbers("image_mean") if normalizes else ()
    std = reader.deviations("image_std") if normalizes else ()
    is_shifted = "rescale_offset" in reader.data and rescales and reader.flag("rescale_offset")
    if kind == "EfficientNet" and reader.flag("include_top"):
        again = reader.deviations("image_std")
        std = tuple(a * b for a, b in zip(std, again, strict=True)) if std else again
    if not rescales:
        return RAW, mean, std, Arithmetic.DIVIDE
    factor = reader.number("rescale_factor")
    if factor <= 0:
        raise reader.refused("rescale_factor", "not above 0")
    low = -1.0 if is_shifted else 0.0
    scale = (low, low + 255 * factor)
    if not is_fast:
        return scale, mean, std, Arithmetic.MULTIPLY_DOUBLE
    is_fused = normalizes and not is_shifted
    return scale, mean, std, Arithmetic.FUSED if is_fused else Arithmetic.MULTIPLY
