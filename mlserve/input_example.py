"""Ask a model of tensors with an example made of its signature: as a command, or as values."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mlserve.errors import UsageError
from mlserve.tensors import DEFAULT_SIGNATURE, PREDICT, DType, Signature, TensorSpec
from mlserve.wire.tensors import FLOATS

_UNNAMED = (DEFAULT_SIGNATURE, "infer")
"""Signatures that predict asks by itself; `infer` is the one function of Open Inference."""
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})
_SHOWN = 8
"""The most elements of an input that an example writes out; a larger one comes from a file."""
_MADE_UP = 2**22
"""The most elements of an input that are made up."""


def predict_command(
    signatures: Sequence[Signature], texts: Mapping[str, str] = _NO_TEXTS
) -> str | None:
    """Return a `mlserve predict` command with a made-up row for each input of the usual signature.

    `texts` has a text that the model knows for some of its inputs. None if no signature takes
    tensors.
    """
    asked = [s for s in signatures if s.method == PREDICT and s.required]
    if not asked:
        return None
    signature = next((s for s in asked if s.name == DEFAULT_SIGNATURE), asked[0])
    words = ["mlserve", "predict"]
    if signature.name not in _UNNAMED:
        words += ["--signature", signature.name]
    for spec in signature.required:
        words += ["--input", f"{spec.name}={texts.get(spec.name) or _value(spec)}"]
    return shlex.join(words)


def example_inputs(signature: Signature) -> dict[str, Any]:
    """Return a made-up row for each required input, as nested lists; unknown sizes are 1.

    Raises UsageError for an input that is too large to make up.
    """
    return {spec.name: _whole_value(spec) for spec in signature.required}


def _whole_value(spec: TensorSpec) -> Any:
    sizes = [size or 1 for size in spec.shape or ()]
    if math.prod(sizes) > _MADE_UP:
        raise UsageError(
            f"the input {spec.name!r} has {math.prod(sizes)} elements, and an example of at most "
            f"{_MADE_UP} is made up",
            hint=f"give one: --input {spec.name}=@FILE.npy",
        )
    return _filled(sizes, "good" if spec.dtype is DType.BYTES else _number(spec))


def _value(spec: TensorSpec) -> str:
    sizes = [size or 1 for size in _without_rows(spec)]
    if math.prod(sizes) > _SHOWN:
        return f"@{spec.name}.npy"
    if spec.dtype is DType.BYTES:
        return "good morning" if math.prod(sizes) == 1 else json.dumps(_filled(sizes, "good"))
    return json.dumps(_filled(sizes, _number(spec)))


def _number(spec: TensorSpec) -> bool | float:
    return True if spec.dtype is DType.BOOL else 0.5 if spec.dtype in FLOATS else 1


def _without_rows(spec: TensorSpec) -> Sequence[int | None]:
    """Return the sizes without the batch's: `predict --input` adds it to a single row."""
    sizes = spec.shape or ()
    return sizes[1:] if sizes[:1] == (None,) else sizes


def _filled(sizes: Sequence[int], value: object) -> Any:
    for size in reversed(sizes):
        value = [value] * size
    return value
