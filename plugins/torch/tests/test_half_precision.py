"""Programs in bf16 and fp16: what is in the file, what it answers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlserve_torch.backend import TorchBackend
from mlserve_torch.half_precision import rewrite
from mlserve_torch.source import model_of_file
from torch import nn

from mlserve.artifact import Artifact
from mlserve.backend import Quantization, RunsOn, runs_on
from mlserve.errors import ExportError
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.sources import Kind, ModelRequest, TensorModel
from mlserve.tensors import DEFAULT_SIGNATURE
from mlserve.testing.artifacts import exported

pytestmark = pytest.mark.framework

DYNAMIC = torch.export.Dim.DYNAMIC


class Network(nn.Module):
    """Two inputs, one of them whole numbers, through a layer with weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 3)

    def forward(self, rows: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": self.layer(rows).softmax(-1), "shifted": shift + 1}


class Overflowing(nn.Module):
    """Its numbers are too large for fp16, which ends at 65504."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows * 1e6 + 1e6


@pytest.fixture
def network(saved: Callable[..., Path]) -> Path:
    dynamic = ({0: DYNAMIC}, {0: DYNAMIC})
    return saved(Network(), torch.rand(2, 4), torch.ones(2, dtype=torch.int64), dynamic=dynamic)


def model_of(path: Path) -> TensorModel:
    """The model of tensors in that file, as its source opens it."""
    request = ModelRequest("network", weights=str(path), kind=Kind.TENSORS)
    model = model_of_file(path, request)
    assert isinstance(model, TensorModel)
    return model


ROWS = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
INPUTS = {"rows": ROWS, "shift": np.arange(5)}


@pytest.mark.parametrize(("precision", "close"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_weights_and_arithmetic_are_in_that_type(
    network: Path, tmp_path: Path, precision: str, close: float
) -> None:
    model = model_of(network)

    TorchBackend().export(model, tmp_path)
    rewrite(model.name, tmp_path / "model.pt2", Precision(precision))

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    program = torch.export.load(tmp_path / "model.pt2")
    assert {weight.dtype for weight in program.state_dict.values()} == {dtype}
    runner = TorchBackend().load(Artifact(tmp_path, "network", 1, None), LoadOptions(device="cpu"))
    assert runner.signatures[DEFAULT_SIGNATURE].inputs == model.signatures[0].inputs
    found = runner.run(DEFAULT_SIGNATURE, INPUTS)
    expected = Network().eval()(torch.from_numpy(ROWS), torch.arange(5))
    assert found["scores"].dtype == np.float32
    difference = np.abs(found["scores"] - expected["scores"].detach().numpy()).max()
    assert 0 < difference < close  # it is rounded, and no more than that
    assert found["shifted"].tolist() == [1, 2, 3, 4, 5]
    one = {name: array[:1] for name, array in INPUTS.items()}
    assert runner.run(DEFAULT_SIGNATURE, one)["scores"].shape == (1, 3)
    runner.close()


def test_numbers_that_the_type_cannot_hold_are_refused(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    model = model_of(saved(Overflowing(), torch.rand(2, 4)))

    with pytest.raises(ExportError, match=r"output_0 of network is not finite in fp16"):
        rewrite(model.name, Path(model.content), Precision.FP16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU for it")
def test_fp16_needs_a_gpu(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no GPU that PyTorch can use"):
        TorchBackend().export_at(model_of(network), tmp_path, Quantization(Precision.FP16))

    assert list(tmp_path.iterdir()) == []


def test_bf16_is_exported(network: Path, tmp_path: Path) -> None:
    model = model_of(network)

    signatures = TorchBackend().export_at(model, tmp_path, Quantization(Precision.BF16))

    assert signatures == model.signatures
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_torchscript_is_refused(
    scripted: Callable[[nn.Module], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    path = scripted(Twice())
    model = TensorModel("twice", path, "torch", (), f"file {path}", "sha256:0")

    into = tmp_path_factory.mktemp("into")
    with pytest.raises(ExportError, match="twice is TorchScript") as refused:
        TorchBackend().export_at(model, into, Quantization(Precision.BF16))

    assert "torch.export.save" in refused.value.hint


def test_int8_is_left_to_other_backends(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'torch' does not export in int8"):
        TorchBackend().export_at(model_of(network), tmp_path, Quantization(Precision.INT8))


def test_a_runner_says_what_it_runs_on(colours: Any, tmp_path: Path) -> None:
    artifact = exported("torch", colours, tmp_path / "colours")

    runner = TorchBackend().load(artifact, LoadOptions(device="cpu"))

    expected = RunsOn(f"PyTorch {torch.__version__}", "fp32", "CPU")
    assert runs_on(runner, "torch", artifact.manifest) == expected
    runner.close()
