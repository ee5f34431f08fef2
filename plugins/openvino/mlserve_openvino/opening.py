"""Open an OpenVINO IR: its interface, the device that runs it, and OpenVINO's errors in short."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import openvino as ov

from mlserve.artifact import EXPORT_AGAIN
from mlserve.errors import ModelLoadFailed, PluginError, bounded
from mlserve.hints import did_you_mean
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

AUTO, CPU = "auto", "CPU"
VERSION = ov.get_version().partition("-")[0]
_DTYPES: Mapping[str, DType] = {
    "f16": DType.FLOAT16,
    "f32": DType.FLOAT32,
    "f64": DType.FLOAT64,
    "boolean": DType.BOOL,
    "i8": DType.INT8,
    "i16": DType.INT16,
    "i32": DType.INT32,
    "i64": DType.INT64,
    "u8": DType.UINT8,
    "u16": DType.UINT16,
    "u32": DType.UINT32,
    "u64": DType.UINT64,
}
"""Element types by OpenVINO's names: those that it exchanges as numpy arrays, but text."""
_REFUSED = ("mlserve", "refuses")
"""Where an IR says which kinds of numbers it answers otherwise than its original."""
_NOISE = re.compile(r"Exception from \S+:|Check '.*' failed at \S+:|FrontEnd API failed with \w+:")


@cache
def core() -> ov.Core:
    """Return the one entry to OpenVINO's devices."""
    return ov.Core()


def plain(error: BaseException) -> str:
    """Reduce an error of OpenVINO, which names each of its source files, to one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return bounded(" ".join(line for line in lines if line and not _NOISE.match(line))) or bounded(
        str(error)
    )


def opened(path: Path) -> ov.Model:
    """Read an IR and map its weights. Raises ModelLoadFailed."""
    try:
        return core().read_model(path)
    except RuntimeError as error:
        raise load_failed(path, error) from error


def note_refused(model: ov.Model, kinds: Sequence[str]) -> None:
    """Write the kinds of numbers that it must refuse into the model's own information."""
    if kinds:
        model.set_rt_info(",".join(kinds), list(_REFUSED))


def refused_of(model: ov.Model) -> tuple[str, ...]:
    """Return the kinds that `note_refused` wrote."""
    if not model.has_rt_info(list(_REFUSED)):
        return ()
    return tuple(str(model.get_rt_info(list(_REFUSED)).value).split(","))


def load_failed(path: Path, error: Exception) -> ModelLoadFailed:
    """Return the error for a file that OpenVINO refuses."""
    return ModelLoadFailed(
        f"OpenVINO {VERSION} cannot load {path}: {plain(error)}", hint=EXPORT_AGAIN
    )


def devices() -> list[str]:
    """Return the names of the devices of this machine, the CPU first."""
    found: list[str] = core().available_devices
    return sorted(found, key=lambda name: (name != CPU, name))


def device_for(wanted: str | None) -> str:
    """Return the device of that name; `auto` (or None) is the CPU, which every machine has.

    Raises PluginError for a device that this machine does not have.
    """
    name = (wanted or AUTO).upper()
    if name == AUTO.upper():
        return CPU
    there = devices()
    if any(name in (device, device.partition(".")[0]) for device in there):
        return name
    raise PluginError(
        f"there is no device {wanted!r} for OpenVINO (there are: {', '.join(there)})",
        hint=did_you_mean(name, [AUTO, *there], "--device ")
        + "leave --device out, or install the device's driver",
    )


def file_signature(where: str, model: ov.Model) -> Signature:
    """Return the only signature of an IR: its inputs and outputs. Raises ModelLoadFailed."""
    return Signature(
        DEFAULT_SIGNATURE,
        tuple(_spec(where, port) for port in model.inputs),
        tuple(_spec(where, port) for port in model.outputs),
    )


def image_spec(port: Any) -> TensorSpec:
    """Return an input as a spec for `ImageInput`; of other types than float32, without a shape."""
    is_float = port.get_element_type() == ov.Type.f32
    return TensorSpec(name_of(port), DType.FLOAT32, open_sizes(port) if is_float else None)


def open_sizes(port: Any) -> tuple[int | None, ...] | None:
    """Return the shape of an input or output with None for each open size; None without a rank."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else None for size in shape)


def name_of(port: Any) -> str:
    """Return the shortest name of an input or output; some have several, and some none."""
    names = sorted(port.get_names(), key=lambda name: (len(name), name))
    return names[0] if names else str(port.get_node().get_friendly_name())


def described(ports: Sequence[Any]) -> str:
    """Format inputs or outputs for a message: `images f32[?,224,224,3]`."""
    return ", ".join(
        f"{name_of(port)} {port.get_element_type().get_type_name()}{port.get_partial_shape()}"
        for port in ports
    )


def _spec(where: str, port: Any) -> TensorSpec:
    dtype = _DTYPES.get(port.get_element_type().get_type_name())
    if dtype is None:
        raise ModelLoadFailed(
            f"{where} cannot be served: {described([port])} is not of a type that this backend "
            f"sends (those are {', '.join(_DTYPES)})",
            hint="convert it to one of them inside the model",
        )
    return TensorSpec(name_of(port), dtype, open_sizes(port))
