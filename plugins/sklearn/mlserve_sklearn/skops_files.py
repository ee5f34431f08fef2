"""`skops.io`, imported without PyTorch.

skops lists scikit-learn's estimators when it is imported, and scikit-learn imports all its own
modules for the list. One of them, for arrays of PyTorch, imports torch where it is installed: 1.5 s
and 200 MB in every process that serves an estimator.
"""

from __future__ import annotations

import sys

_FOR_TORCH = "sklearn.externals.array_api_compat.torch"

_is_hidden = _FOR_TORCH not in sys.modules
if _is_hidden:
    sys.modules[_FOR_TORCH] = None  # type: ignore[assignment] # importing it raises ImportError
try:
    import skops.io as skops_io
finally:
    if _is_hidden:
        del sys.modules[_FOR_TORCH]

__all__ = ["skops_io"]
