"""Checks of a request against the signature that it asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches

from mlserve.errors import LONGEST_NAME, InputTooLarge, InvalidInput, NotFound, shortened
from mlserve.settings import flag_of
from mlserve.tensors import DType, Signature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
_NAMES_SHOWN = 10


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature of that name; the empty name means `serving_default`. Raises NotFound."""
    wanted = name or DEFAULT_SIGNATURE
    if wanted in signatures:
        return signatures[wanted]
    raise NotFound(
        f'Serving signature name: "{shortened(wanted)}" not found in signature def'
        f"{_guess(wanted, signatures)}; there are: {', '.join(sorted(signatures))}",
        hint="mlserve metadata shows the signatures of the model",
    )


def check_names(signature: Signature, sent: Collection[str]) -> None:
    """Raises InvalidInput unless the inputs of the signature were sent, and no others.

    Those with a default may be left out.
    """
    required = {spec.name for spec in signature.inputs}
    extra = sorted(set(sent) - required)
    missing = sorted(required - signature.optional - set(sent))
    if not extra and not missing:
        return
    guesses = "".join(_guess(name, missing) for name in extra[:_NAMES_SHOWN])
    raise InvalidInput(
        f'input size does not match signature "{signature.name}": {len(sent)} != {len(required)}. '
        f"Sent extra: {{{_listed(extra)}}}. Missing but required: {{{','.join(missing)}}}"
        + guesses,
        hint="mlserve metadata shows the inputs of each signature",
    )


def check_dtype(spec: TensorSpec, dtype: DType) -> None:
    """Raises InvalidInput unless that is the type of the spec."""
    if dtype is not spec.dtype:
        raise InvalidInput(f"input '{spec.name}' is {dtype.label}, not {spec.dtype.label}")


def check_shape(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raises InvalidInput unless an array of that shape fits the spec."""
    if spec.shape is None:
        return
    pairs = zip(spec.shape, shape, strict=False)
    if len(shape) != len(spec.shape) or any(want not in (None, got) for want, got in pairs):
        raise InvalidInput(
            f"input '{spec.name}' has shape {list(shape)}, which does not fit {spec}"
        )


def check_batch_length(spec: TensorSpec, shape: tuple[int, ...], limit: int) -> None:
    """Raises InputTooLarge when the first size is free in the spec and larger than the limit.

    Of an input of unknown rank nobody knows whether its first dimension is that of a batch.
    """
    if _is_batched(spec) and shape[:1] > (limit,):
        raise InputTooLarge(
            f"input '{spec.name}' has a first dimension of {shape[0]}; this server takes at most "
            f"{limit} ({flag_of('max_batch_length')})",
            hint="send several smaller requests",
        )


def most_rows(signatures: Iterable[Signature], limit: int) -> int | None:
    """The limit, if it holds for every input of these signatures; else None: nothing is known."""
    inputs = [spec for signature in signatures for spec in signature.inputs]
    return limit if all(map(_is_batched, inputs)) else None


def too_many_rows(limit: int) -> InputTooLarge:
    """The error of a request in row form of more rows than that, told before all are read."""
    return InputTooLarge(
        f"'instances' has more than {limit} rows; this server takes at most {limit} "
        f"({flag_of('max_batch_length')})",
        hint="send several smaller requests",
    )


def _is_batched(spec: TensorSpec) -> bool:
    return spec.shape is not None and spec.shape[:1] == (None,)


def _listed(names: Sequence[str]) -> str:
    """The first of these names, each cut, and how many more there are."""
    shown = [shortened(name) for name in names[:_NAMES_SHOWN]]
    more = len(names) - len(shown)
    return ",".join(shown) + (f" and {more} more" if more else "")


def _guess(name: str, choices: Collection[str]) -> str:
    if len(name) > LONGEST_NAME:  # to compare it would cost its length squared
        return ""
    close = get_close_matches(name, choices, n=1)
    return f" (did you mean '{close[0]}' for '{shortened(name)}'?)" if close else ""
