"""PyTorch's programs become ONNX files that answer as PyTorch does; what cannot is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlserve import export, plugins
from mlserve.artifact import Artifact
from mlserve.errors import ExportError, InvalidInput
from mlserve.load_options import LoadOptions
from mlserve.sources import Kind, ModelRequest
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.framework

DYNAMIC = torch.export.Dim.DYNAMIC


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.last = nn.Linear(8, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers((pixels - 0.45) / 0.225))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(50, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
        mean = (self.table(ids) * mask.unsqueeze(-1)).mean(1)
        return {"boxes": self.last(mean), "best": mean.argmax(-1)}


def saved_program(path: Path, module: nn.Module, inputs: Any, sizes: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=sizes), path)
    return path


def exported(path: Path, backend: str, store: Path, **options: Any) -> Artifact:
    return export.export(ModelRequest("m", str(path), **options), backend, store=store)


def test_a_classifier_gets_the_scores_of_the_torch_backend(tmp_path: Path) -> None:
    images = (torch.rand(2, 3, 24, 24),)
    path = saved_program(tmp_path / "m.pt2", Classifier(), images, ({0: DYNAMIC},))
    image = saved(noise(90, 70))
    scores = []
    for backend in ("torch", "onnxruntime"):
        artifact = exported(path, backend, tmp_path, labels=("a", "b", "c"))
        scores.append(plugins.backend(backend).stages(artifact, LoadOptions()).scores(image))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_tensors_keep_their_names_and_get_the_same_answers(rows: int, tmp_path: Path) -> None:
    sizes = {0: torch.export.Dim("batch"), 1: DYNAMIC}
    inputs = (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.bool))
    path = saved_program(tmp_path / "m.pt2", Detector(), inputs, {"ids": sizes, "mask": sizes})
    rng = np.random.default_rng(0)
    asked = {"ids": rng.integers(0, 50, (rows, 9)), "mask": rng.random((rows, 9)) < 0.5}
    answers = []
    for backend in ("torch", "onnxruntime"):
        artifact = exported(path, backend, tmp_path)
        runner = plugins.backend(backend).load(artifact, LoadOptions())
        answers.append(runner.run("serving_default", asked))
        runner.close()
    assert set(answers[0]) == set(answers[1]) == {"boxes", "best"}
    np.testing.assert_allclose(answers[1]["boxes"], answers[0]["boxes"], atol=1e-5)
    np.testing.assert_array_equal(answers[1]["best"], answers[0]["best"])


def test_torchscript_is_refused(tmp_path: Path) -> None:
    from mlserve.tensors import DType, TensorSpec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(nn.Linear(3, 2)).save(str(tmp_path / "m.pt"))
    spec = TensorSpec("x", DType.FLOAT32, (None, 3))
    with pytest.raises(ExportError, match="is TorchScript, which PyTorch's exporter") as refused:
        exported(tmp_path / "m.pt", "onnxruntime", tmp_path, inputs=(spec,))
    assert "torch.export.save" in str(refused.value.hint)


def test_what_onnx_has_no_operation_for_is_refused(tmp_path: Path) -> None:
    class Unusual(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.spherical_bessel_j0(x)

    path = saved_program(tmp_path / "m.pt2", Unusual(), (torch.rand(2, 3),), ({0: DYNAMIC},))
    with pytest.raises(ExportError, match="cannot be converted to ONNX") as refused:
        exported(path, "onnxruntime", tmp_path)
    assert "--backend torch" in str(refused.value.hint)


class Rounded(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x.to(torch.bfloat16)


def test_bfloat16_is_refused_as_onnx_runtime_does_not_exchange_it(tmp_path: Path) -> None:
    program = torch.export.export(Rounded(), (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "rounded.pt2")
    request = ModelRequest("m", str(tmp_path / "rounded.pt2"), kind=Kind.TENSORS)
    with pytest.raises(ExportError, match="ONNX Runtime exchanges no bfloat16"):
        export.export(request, "onnxruntime", store=tmp_path / "store")


class Largest(nn.Module):  # type: ignore[misc]
    """NaN is the largest for PyTorch, and not for ONNX Runtime."""

    def forward(self, x: Any) -> Any:
        return x.argmax(1)


def test_nan_is_refused_where_onnx_runtime_answers_otherwise(tmp_path: Path) -> None:
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(Largest(), (torch.rand(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    request = ModelRequest("m", str(tmp_path / "m.pt2"), kind=Kind.TENSORS)
    artifact = export.export(request, "onnxruntime", store=tmp_path / "store")
    runner = plugins.backend("onnxruntime").load(artifact, LoadOptions())
    x = np.array([[1, 2, 4, 3]], np.float32)
    assert runner.run("serving_default", {"x": x})["output_0"].tolist() == [2]
    x[0, 1] = np.nan
    with pytest.raises(InvalidInput, match=r"'x' has nan at \[0, 1\]"):
        runner.run("serving_default", {"x": x})
