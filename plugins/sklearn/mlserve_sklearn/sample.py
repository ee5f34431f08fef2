"""An estimator for the conformance suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mlserve_sklearn.skops_files import skops_io


def write_sample(file: Path) -> None:
    """Train a classifier of three classes on 60 rows of four numbers, and write it."""
    rows = np.random.default_rng(0).uniform(0, 1, (60, 4))
    classes = np.array(["low", "middle", "high"])[(rows.sum(axis=1) * 0.74).astype(int)]
    skops_io.dump(LogisticRegression().fit(rows, classes), file)
