"""Element types as numpy knows them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np  # noqa: TID253

from mlserve.tensors import DType

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
