"""Golden inputs: what a model was asked at export, and what its reference answered.

They are kept in the version's folder: `golden/golden.json` says which tensor is what, and
`golden/tensors.npz` holds them.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253

from mlserve.artifact import EXPORT_AGAIN, json_of, read_plain
from mlserve.errors import ModelLoadFailed, reason_of

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

GOLDEN_FOLDER = "golden"
"""The folder inside a version's folder."""
_INDEX, _TENSORS = "golden.json", "tensors.npz"
_LARGEST = 2**30
"""The most bytes of each of its files, packed and unpacked."""
_DAMAGES = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,  # a shape that is too large for this machine
    RuntimeError,  # an archive that is encrypted or packed in another way
    zlib.error,
    zipfile.BadZipFile,
)
"""What reading damaged files raises."""


@dataclass(frozen=True)
class GoldenCase:
    """One golden input: `inputs` to ask `signature` with, and the reference's outputs.

    Of an image classifier `signature` is the one that gives all classes, `inputs` hold one image
    file, and `expected` and `answered` are {"scores": float32[1, classes]} in the order of the
    classes, and {"label": the label of the best, object[1] of bytes}. `answered` is what the
    artifact itself answered where it was exported. `margin` is the best score less the second best;
    None for a model without scores.
    """

    name: str
    signature: str
    inputs: Arrays
    expected: Arrays
    answered: Arrays
    margin: float | None


_PARTS = ("inputs", "expected", "answered")


def write_golden(cases: Sequence[GoldenCase], folder: Path) -> None:
    """Write the cases into `folder / GOLDEN_FOLDER`. Raises OSError."""
    tensors: list[Array] = []
    index = [
        {
            "name": case.name,
            "signature": case.signature,
            "margin": case.margin,
            **{
                part: {name: _kept(array, tensors) for name, array in getattr(case, part).items()}
                for part in _PARTS
            },
        }
        for case in cases
    ]
    own = folder / GOLDEN_FOLDER
    own.mkdir()
    (own / _INDEX).write_text(json.dumps(index, indent=1) + "\n")
    with (own / _TENSORS).open("wb") as file:
        np.savez_compressed(file, *tensors)


def _kept(array: Array, tensors: list[Array]) -> dict[str, Any]:
    """Append the array to the tensors, and return what reads it again."""
    at = len(tensors)
    if array.dtype != object:
        tensors.append(array)
        return {"tensor": at}
    tensors.append(np.frombuffer(b"".join(array.flat), np.uint8))
    tensors.append(np.array([len(value) for value in array.flat], np.int64).reshape(array.shape))
    return {"tensor": at, "lengths": at + 1}


def read_golden(folder: Path) -> tuple[GoldenCase, ...]:
    """Return the cases of the version in `folder`. Raises ModelLoadFailed for damaged files."""
    own = folder / GOLDEN_FOLDER
    try:
        index = json_of(read_plain(own / _INDEX, _LARGEST))
        data = read_plain(own / _TENSORS, _LARGEST)
        with np.load(io.BytesIO(data), allow_pickle=False) as tensors:
            _require_bounded(tensors.zip)
            cases = tuple(_case(item, tensors) for item in index)
        if not cases:
            raise ValueError("there are none")
    except _DAMAGES as error:
        raise ModelLoadFailed(
            f"the golden inputs in {own} cannot be read: {reason_of(error)}", hint=EXPORT_AGAIN
        ) from error
    return cases


def _require_bounded(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if it unpacks to more than may be read: a bomb packs many into few."""
    if sum(member.file_size for member in archive.infolist()) > _LARGEST:
        raise ValueError(f"it unpacks to more than {_LARGEST >> 20} MiB")


def _case(item: Mapping[str, Any], tensors: Any) -> GoldenCase:
    parts = {
        part: {name: _read(place, tensors) for name, place in item[part].items()} for part in _PARTS
    }
    name, signature, margin = item["name"], item["signature"], item["margin"]
    if not (isinstance(name, str) and isinstance(signature, str)):
        raise TypeError("a name or a signature is not a text")
    return GoldenCase(name, signature, margin=None if margin is None else float(margin), **parts)


def _read(place: Mapping[str, int], tensors: Any) -> Array:
    array = _tensor(tensors, place["tensor"])
    if "lengths" not in place:
        return array
    lengths = _tensor(tensors, place["lengths"])
    values = np.empty(lengths.size, dtype=object)
    values[:] = list(_cut(array.tobytes(), lengths.ravel().tolist()))
    return values.reshape(lengths.shape)


def _tensor(tensors: Any, number: int) -> Array:
    found = tensors[f"arr_{number}"]
    if isinstance(found, np.ndarray):
        return found
    raise ValueError(f"arr_{number} is not an array")


def _cut(data: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    at = 0
    for length in lengths:
        if length < 0 or at + length > len(data):
            raise ValueError("its texts have other lengths than it says")
        yield data[at : at + length]
        at += length
