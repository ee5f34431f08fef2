"""Programs of `torch.export`, as classifiers and as models of tensors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlserve import plugins
from mlserve.errors import ExportError, InvalidInput
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.sources import Kind, ModelRequest

pytestmark = pytest.mark.framework
DYNAMIC = torch.export.Dim.DYNAMIC


class Two(nn.Module):  # type: ignore[misc]
    """A network of two inputs and two outputs, one of which is an integer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(4, 3)

    def forward(self, x: Any, scale: Any) -> dict[str, Any]:
        scores = torch.softmax(self.dense(x) * scale, dim=1)
        return {"scores": scores, "best": scores.argmax(dim=1)}


class Planes(nn.Module):  # type: ignore[misc]
    """A small classifier of images whose colours come first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, pixels: Any) -> Any:
        return torch.relu(self.conv(pixels)).mean((2, 3))


def _saved(module: nn.Module, file: Path, *inputs: Any) -> Path:
    program = torch.export.export(
        module.eval(), inputs, dynamic_shapes=tuple({0: DYNAMIC} for _ in inputs)
    )
    torch.export.save(program, file)
    return file


def test_a_program_of_tensors_answers_as_pytorch_does(tmp_path: Path) -> None:
    module, inputs = Two(), (torch.rand(5, 4), torch.rand(5, 1))
    file = _saved(module, tmp_path / "two.pt2", *inputs)
    request = ModelRequest("two", weights=str(file), kind=Kind.TENSORS)
    artifact = export(request, "openvino", store=tmp_path / "store")
    runner = plugins.backend("openvino").load(artifact, LoadOptions())
    sent = {"x": inputs[0].numpy(), "scale": inputs[1].numpy()}
    answer = runner.run("serving_default", sent)
    with torch.inference_mode():
        expected = module(*inputs)
    assert answer["scores"] == pytest.approx(expected["scores"].numpy(), abs=1e-6)
    assert (answer["best"] == expected["best"].numpy()).all()
    assert answer["best"].dtype == np.int64


def test_a_classifier_whose_colours_come_first_answers_as_pytorch_does(tmp_path: Path) -> None:
    from mlserve.testing.images import noise, saved

    file = _saved(Planes(), tmp_path / "planes.pt2", torch.rand(2, 3, 16, 12))
    labels = tuple("abcde")
    request = ModelRequest("planes", weights=str(file), labels=labels, scale=(0.0, 1.0))
    answers = []
    for backend in ("openvino", "torch"):
        artifact = export(request, backend, store=tmp_path / "store")
        runner = plugins.backend(backend).load(artifact, LoadOptions())
        answers.append(runner.run("ranking", {"image": np.array([saved(noise(40, 30))], object)}))
    assert answers[0]["scores"] == pytest.approx(answers[1]["scores"], abs=1e-6)
    assert (answers[0]["labels"] == answers[1]["labels"]).all()


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Planes().eval(), torch.rand(1, 3, 16, 12)).save(str(tmp_path / "planes.pt"))
    from mlserve.tensors import DType, TensorSpec

    request = ModelRequest(
        "planes",
        weights=str(tmp_path / "planes.pt"),
        kind=Kind.TENSORS,
        inputs=(TensorSpec("pixels", DType.FLOAT32, (None, 3, 16, 12)),),
    )
    with pytest.raises(ExportError, match="planes is TorchScript") as raised:
        export(request, "openvino", store=tmp_path / "store")
    assert "torch.export.save" in str(raised.value.hint)


class Same(nn.Module):  # type: ignore[misc]
    """One of the outputs is the input."""

    def forward(self, x: Any) -> dict[str, Any]:
        return {"more": x + 1, "same": x}


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float32, "one of its outputs is an input, unchanged"),
        (torch.bfloat16, "exchanges no bfloat16"),
    ],
)
def test_what_openvino_cannot_give_back_is_refused(
    dtype: torch.dtype, words: str, tmp_path: Path
) -> None:
    file = _saved(Same(), tmp_path / "same.pt2", torch.zeros(5, 4, dtype=dtype))
    request = ModelRequest("same", weights=str(file), kind=Kind.TENSORS)
    with pytest.raises(ExportError, match=words):
        export(request, "openvino", store=tmp_path / "store")


def test_nan_is_refused_where_openvino_would_make_a_number_of_it(tmp_path: Path) -> None:
    """Its ReLU gives 0 for NaN, and PyTorch's NaN."""
    file = _saved(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), tmp_path / "m.pt2", torch.rand(5, 4))
    request = ModelRequest("m", weights=str(file), kind=Kind.TENSORS)
    artifact = export(request, "openvino", store=tmp_path / "store")
    runner = plugins.backend("openvino").load(artifact, LoadOptions())
    (spec,) = runner.signatures["serving_default"].inputs
    x = np.ones((2, 4), np.float32)
    runner.run("serving_default", {spec.name: x})
    x[1, 2] = np.nan
    with pytest.raises(InvalidInput, match=r"has nan at \[1, 2\]"):
        runner.run("serving_default", {spec.name: x})
