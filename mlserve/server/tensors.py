"""Check a request's tensors against its signature, and map element types to numpy dtypes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

import ml_dtypes
import numpy as np

from mlserve.errors import LONGEST_NAME, InputTooLarge, InvalidInput, NotFound, first_of, shortened
from mlserve.options import flag_of
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec

Array = np.ndarray[Any, Any]

_SPECIAL: dict[DType, Any] = {
    DType.BYTES: object,
    DType.BFLOAT16: ml_dtypes.bfloat16,
    DType.QINT8: np.int8,
    DType.QUINT8: np.uint8,
    DType.QINT16: np.int16,
    DType.QUINT16: np.uint16,
    DType.QINT32: np.int32,
}

NUMPY: dict[DType, np.dtype[Any]] = {
    dtype: np.dtype(_SPECIAL.get(dtype, dtype.label)) for dtype in DType
}
"""The numpy dtype of each element type. Strings are object arrays of `bytes`."""


_NAMES_SHOWN = 10


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Return the named signature; an empty name means `serving_default`. Raises NotFound."""
    wanted = name or DEFAULT_SIGNATURE
    if wanted in signatures:
        return signatures[wanted]
    raise NotFound(
        f'Serving signature name: "{shortened(wanted)}" not found in signature def; '
        + known_signatures(signatures, wanted),
        hint="mlserve metadata shows the signatures of the model",
    )


def known_signatures(signatures: Mapping[str, Signature], wanted: str) -> str:
    """Return message text that lists the signatures and suggests the one that was meant."""
    return f"there are: {', '.join(sorted(signatures))}{_guess(wanted, signatures)}"


def check_names(signature: Signature, sent: Collection[str]) -> None:
    """Raise InvalidInput unless exactly the inputs of the signature were sent.

    Inputs with a default may be left out. The error begins with the words of TensorFlow Serving
    (predict_util.cc).
    """
    required = {spec.name for spec in signature.inputs}
    extra = sorted(set(sent) - required)
    missing = sorted(required - signature.optional - set(sent))
    if not extra and not missing:
        return
    names = ",".join(sorted(required))
    if len(sent) == len(required):
        fault = (
            f"input tensor alias not found in signature: {shortened(extra[0])}. Inputs expected "
            f"to be in the set {{{names}}}."
        )
    else:
        fault = (
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({{{_listed(sorted(sent))}}}) != len({{{names}}})."
        )
    raise InvalidInput(
        f"{fault} Sent extra: {{{_listed(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        + misspelt(extra, missing),
        hint="mlserve metadata shows the inputs of each signature",
    )


def check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raise InvalidInput unless the shape fits the spec."""
    if spec.shape is None:
        return
    pairs = zip(spec.shape, shape, strict=False)
    if len(shape) != len(spec.shape) or any(want not in (None, got) for want, got in pairs):
        raise InvalidInput(
            f"input '{spec.name}' has shape {list(shape)}, which does not fit {spec}"
        )


def check_shapes(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Raise InvalidInput unless the shape of each given input fits its spec."""
    for spec in signature.inputs:
        if spec.name in inputs:
            check_shape(spec, inputs[spec.name].shape)


def check_batch_length(spec: TensorSpec, shape: tuple[int, ...], limit: int) -> None:
    """Raise InputTooLarge when the first size is free in the spec and exceeds the limit.

    For an input of unknown rank, there is no telling whether its first dimension is the batch.
    """
    if _is_batched(spec) and shape[:1] > (limit,):
        raise InputTooLarge(
            f"input '{spec.name}' has a first dimension of {shape[0]}; this server takes at most "
            f"{limit} ({flag_of('max_batch_length')})",
            hint="send several smaller requests",
        )


def misspelt(given: Iterable[str], choices: Collection[str]) -> str:
    """Suggest what the first few of these names may have been meant to be."""
    return "".join(_guess(name, choices) for name in islice(given, _NAMES_SHOWN))


def most_rows(signatures: Iterable[Signature], limit: int) -> int | None:
    """Return the limit if it holds for every input of these signatures, else None."""
    inputs = [spec for signature in signatures for spec in signature.inputs]
    return limit if all(map(_is_batched, inputs)) else None


def too_many_rows(limit: int) -> InputTooLarge:
    """Return the error for a row-form request with too many rows, found before all are read."""
    return InputTooLarge(
        f"'instances' has more than {limit} rows; this server takes at most {limit} "
        f"({flag_of('max_batch_length')})",
        hint="send several smaller requests",
    )


def _is_batched(spec: TensorSpec) -> bool:
    return spec.shape is not None and spec.shape[:1] == (None,)


def _listed(names: Sequence[str]) -> str:
    return first_of(names, _NAMES_SHOWN, separator=",")


def _guess(name: str, choices: Collection[str]) -> str:
    if len(name) > LONGEST_NAME:  # difflib would take time quadratic in its length
        return ""
    close = get_close_matches(name, choices, n=1)
    return f" (did you mean '{close[0]}' for '{shortened(name)}'?)" if close else ""
