"""examples/train_sklearn.py: what it saves gives one answer on both backends.

The commands that export and serve it are on docs/your-own-model.md, whose test runs them.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from mlserve import plugins
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import ModelRequest

pytestmark = pytest.mark.framework

SCRIPT = Path(__file__).parents[3] / "examples" / "train_sklearn.py"


def test_the_training_script_saves_a_model_for_both_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "homes.skops"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(file)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"{file}: a random forest, off by ")
    row = {
        "city": np.array([b"Bern", b"", "Zürich".encode(), b"Genf"], dtype=object),
        "rooms": np.array([3.0, 2, 4, 1]),
        "size": np.array([71.5, np.nan, 96, 20]),
    }
    rents = []
    for backend in ("sklearn", "onnxruntime"):
        artifact = export(ModelRequest("homes", str(file)), backend, store=tmp_path / "store")
        runner = plugins.backend(backend).load(artifact, LoadOptions())
        rents.append(runner.run("serving_default", row)["prediction"])
    assert rents[0] == pytest.approx(rents[1], rel=1e-6)
    assert 1000 < rents[0][0] < rents[0][2]
