"""Weights in files beside an ONNX file, including symbolic links, which model hubs' caches use.

`onnx` refuses every link, and ONNX Runtime those that lead out of the model's folder. A link in the
folder was created by its owner, such as a hub's cache, and is trusted; a path inside the model file
that leads out of the folder is not, and is never followed here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlserve.errors import ExportError

_MODEL_SUFFIX = ".onnx"


def whole_model(path: Path) -> Any:
    """Return the `onnx.ModelProto` in that file including all its weights. Raises ExportError."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    fill_weights(model, path.parent)
    return model


def fill_weights(message: Any, folder: Path) -> None:
    """Load the weights from files in `folder` into the message. Raises ExportError."""
    for tensor in _tensors(message):
        if tensor.data_location == tensor.EXTERNAL:
            told = {entry.key: entry.value for entry in tensor.external_data}
            tensor.raw_data = _read(folder, tensor.name, told)
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]


def linked_files(folder: Path) -> dict[str, mmap.mmap]:
    """Map the files in `folder` other than models, by relative path; empty if none is a link.

    They are mapped, not read. Files that cannot be mapped, such as empty ones, are left out.
    """
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != _MODEL_SUFFIX]
    if not any(path.is_symlink() for path in paths):
        return {}
    return {path.relative_to(folder).as_posix(): data for path in paths if (data := _map(path))}


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every TensorProto in a message at any depth, including subgraphs and attributes."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(item)


def _read(folder: Path, name: str, told: Mapping[str, str]) -> bytes:
    location = PurePosixPath(told.get("location", ""))
    if location.is_absolute() or ".." in location.parts or not location.parts:
        raise ExportError(
            f"the weights {name!r} are said to be in {str(location)!r}, outside of {folder}",
            hint="write the model again with its weights in files beside it",
        )
    path = folder / location
    try:
        with path.open("rb") as file:
            file.seek(int(told.get("offset", 0)))
            data = file.read(int(told["length"])) if "length" in told else file.read()
    except (OSError, ValueError) as error:
        raise ExportError(
            f"the weights {name!r} cannot be read from {path}: {error}",
            hint="put the file with the weights beside the model",
        ) from error
    if "length" in told and len(data) != int(told["length"]):
        raise ExportError(
            f"{path} ends before the weights {name!r} do: {len(data)} bytes of {told['length']}",
            hint="copy or download the file again",
        )
    return data


def _map(path: Path) -> mmap.mmap | None:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None  # the loader names it if the model needs it
