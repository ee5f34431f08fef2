"""The precisions that a model is exported in."""

from __future__ import annotations

from enum import StrEnum

MIN_AGREEMENT = 0.99
"""The default of `--min-agreement`: the least share of answers that are those of the reference."""
GOLDEN_ORIGIN = "golden inputs, as no others were given"
"""What an agreement says it was measured on where no held-out inputs were given."""


NATIVE = "native precision"
"""What is said of a runtime that computes in the numbers of the model itself, whatever they are."""


class Precision(StrEnum):
    """The type of number that a runtime computes with.

    `int8` means that convolutions and matrix products are quantised; the rest may stay in floats.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"

    @property
    def needs_calibration(self) -> bool:
        """Whether the ranges of the numbers must be measured on inputs of the model."""
        return self is Precision.INT8

    @property
    def is_reference(self) -> bool:
        """Whether it is the precision of the reference itself."""
        return self is Precision.FP32
