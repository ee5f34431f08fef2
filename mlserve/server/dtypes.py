"""Element types as numpy knows them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np  # noqa: TID253

from mlserve.tensors import DType

Array = np.ndarray[Any, Any]

_SPECIAL: dict[DType, Any] = {DType.BYTES: object, DType.BFLOAT16: ml_dtypes.bfloat16}

NUMPY: dict[DType, np.dtype[Any]] = {
    dtype: np.dtype(_SPECIAL.get(dtype, dtype.label)) for dtype in DType
}
"""The numpy dtype of each element type. Strings are object arrays of `bytes`."""
