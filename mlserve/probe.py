"""Run a model of tensors on made-up inputs, to see whether its rows are independent.

The inputs are seeded, of the dtypes that the signature declares and of plausible sizes. A model
need not take them: numbers may be ids, strings may be categories. What it refuses is not counted
against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np  # noqa: TID253

from mlserve.differences import Array, Arrays, different_output
from mlserve.errors import MlserveError
from mlserve.sources import Fact, How
from mlserve.tensors import PREDICT, DType, Signature, TensorSpec

_ROWS = 3
_LENGTHS = (16, 64, 224, 1)
"""Sizes to try where one is open: those of a sentence, a window, an image, and one element."""
_WORDS = (b"good morning", b"what a bad, bad day", b"yes", b"never again")
_UNMADE = (DType.BFLOAT16, DType.QINT8, DType.QUINT8, DType.QINT16, DType.QUINT16, DType.QINT32)
"""Types that numpy does not have."""


def made_up_inputs(
    signature: Signature, rows: int = _ROWS, length: int = _LENGTHS[0]
) -> dict[str, Array]:
    """Return a seeded array for each required input: `rows` long where the first size is open.

    Other open sizes are `length`, the same for all, as inputs that belong together share them.
    Integers are 0 or 1, which any table of ids has; bytes (uint8) are any. Raises ValueError for a
    type that numpy does not have.
    """
    rng = np.random.default_rng(0)
    return {spec.name: _made_up(rng, spec, rows, length) for spec in signature.required}


def _made_up(rng: np.random.Generator, spec: TensorSpec, rows: int, length: int) -> Array:
    if spec.dtype in _UNMADE:
        raise ValueError(f"numbers of type {spec.dtype.label} cannot be made up")
    sizes = (None,) if spec.shape is None else spec.shape
    shape = [
        (length if axis else rows) if size is None else size for axis, size in enumerate(sizes)
    ]
    if spec.dtype is DType.BYTES:
        return rng.choice(np.array(_WORDS, dtype=object), shape)
    dtype = np.dtype(spec.dtype.label)
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    return rng.integers(0, 256 if spec.dtype is DType.UINT8 else 2, shape).astype(dtype)


@dataclass(frozen=True)
class Trial:
    """Made-up inputs that a model took, and its outputs."""

    inputs: Arrays
    outputs: Arrays


def tried(signature: Signature, run: Callable[[Arrays], Arrays], rows: int = _ROWS) -> Trial | str:
    """Return the first made-up inputs that the model takes; else why it takes none."""
    is_open = any(None in (spec.shape or ())[1:] for spec in signature.required)
    refusal = ""
    for length in _LENGTHS if is_open else _LENGTHS[:1]:
        try:
            inputs = made_up_inputs(signature, rows, length)
            return Trial(inputs, run(inputs))
        except (MlserveError, ValueError) as error:
            refusal = refusal or str(error)
    return refusal


@dataclass(frozen=True)
class Rows:
    """How it is known whether a model's rows are independent, and whether they are not."""

    fact: Fact
    are_dependent: bool = False


def check_rows(
    signatures: Iterable[Signature], run: Callable[[str, Arrays], Arrays]
) -> Rows | None:
    """Ask about rows together and alone; None if no signature has rows.

    A signature whose answer differs decides, then one that could not be tried.
    """
    found = [
        _rows_of(signature, partial(run, signature.name))
        for signature in signatures
        if signature.has_rows and signature.inputs and signature.method == PREDICT
    ]
    order = sorted(found, key=lambda rows: (not rows.are_dependent, rows.fact.how is How.FOUND))
    return order[0] if order else None


def _rows_of(signature: Signature, run: Callable[[Arrays], Arrays]) -> Rows:
    trial = tried(signature, run)
    if isinstance(trial, str):
        return Rows(Fact(How.ASSUMED, f"independent; it refuses made-up inputs ({trial})"))
    again = run(trial.inputs)
    differing = different_output(trial.outputs, again)
    if differing:
        return _dependent(
            f"{signature.name} gives two answers to the same input (output {differing})"
        )
    for row in range(_ROWS):
        try:
            alone = run({name: array[row : row + 1] for name, array in trial.inputs.items()})
        except MlserveError as error:
            return _dependent(f"{signature.name} takes {_ROWS} rows, but not one alone ({error})")
        beside = {name: array[row : row + 1] for name, array in trial.outputs.items()}
        differing = different_output(beside, alone)
        if differing:
            return _dependent(
                f"a row's answer depends on the rows beside it (output {differing} of "
                f"{signature.name})"
            )
    return Rows(Fact(How.FOUND, "each has the same answer alone as beside others"))


def _dependent(why: str) -> Rows:
    warning = f"{why}: requests are never run together as a batch"
    return Rows(Fact(How.FOUND, why, warning), are_dependent=True)
