import numpy as np
import pytest

from mlserve.tensors import DType
from mlserve.wire.tensors import INTEGERS, integer_limits


def test_integers_are_the_types_of_whole_numbers() -> None:
    others = {"bool", "bytes", "float16", "bfloat16", "float32", "float64"}
    assert {d.label for d in DType if d not in INTEGERS} == others | {"complex64", "complex128"}


@pytest.mark.parametrize("dtype", [d for d in DType if d in INTEGERS], ids=lambda d: d.label)
def test_the_limits_of_integers_are_those_of_numpy(dtype: DType) -> None:
    of_numpy = np.iinfo(np.dtype(dtype.label.removeprefix("q")))
    assert integer_limits(dtype) == (of_numpy.min, of_numpy.max)
