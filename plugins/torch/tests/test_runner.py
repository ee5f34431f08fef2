"""Any PyTorch model served as it is: types, shapes, errors, deadlines, threads, graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlserve_torch.device import device_for, devices
from mlserve_torch.gpu_jpeg import NvJpeg
from mlserve_torch.program import DTYPES
from torch import nn

from mlserve import export, plugins
from mlserve.artifact import Artifact
from mlserve.backend import Runner
from mlserve.errors import (
    InvalidInput,
    ModelLoadFailed,
    PluginError,
    UsageError,
)
from mlserve.load_options import JpegChoice, LoadOptions
from mlserve.sources import Kind, ModelRequest
from mlserve.tensors import DType, TensorSpec

pytestmark = pytest.mark.framework

Dim = torch.export.Dim
Saved = Callable[..., Path]
Array = np.ndarray[Any, Any]


def run(runner: Runner, **inputs: Array) -> dict[str, Array]:
    return dict(runner.run("serving_default", inputs))


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_every_type_arrives_and_returns_unchanged(
    dtype: torch.dtype, saved: Saved, tmp_path: Path
) -> None:
    path = saved(Same(), torch.zeros(2, 3, dtype=dtype))
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    path.rename(folder / "any.pt2")
    runner = plugins.backend("torch").load(Artifact.open(tmp_path / "m", "m", 1), LoadOptions())
    (spec,) = runner.signatures["serving_default"].inputs
    assert (spec.dtype, spec.shape) == (DTYPES[dtype], (None, 3))
    name = spec.dtype.label
    given = np.arange(12).reshape(4, 3).astype(name if name != "bfloat16" else "float32")
    if name == "bfloat16":
        import ml_dtypes

        given = given.astype(ml_dtypes.bfloat16)
    found = run(runner, x=given)["output_0"]
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found, given)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.last = nn.Embedding(100, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> Any:
        mean = self.table(ids.long()).mean(1)
        return {"boxes": self.last(mean) * scale, "most": mean.max(), "found": mean.sum() > 0}


@pytest.fixture
def detector(saved: Saved, loaded: Callable[..., Runner]) -> Runner:
    sizes = {"ids": {0: Dim("batch"), 1: Dim.DYNAMIC}, "scale": {}}
    return loaded(
        saved(Detector(), torch.ones(2, 5, dtype=torch.int32), torch.tensor(2.0), dynamic=sizes)
    )


def test_scalars_flags_and_ids_go_both_ways(detector: Runner) -> None:
    ids = np.array([[1, 2, 3], [4, 5, 99]], np.int32)
    found = run(detector, ids=ids, scale=np.array(3.0, np.float32))
    with torch.inference_mode():
        expected = Detector()(torch.from_numpy(ids), torch.tensor(3.0))
    assert (found["most"].shape, found["found"].shape, found["found"].dtype) == ((), (), np.bool_)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-6)


@pytest.mark.parametrize("bad", [100, -1])
def test_an_id_that_the_model_does_not_know_is_named(detector: Runner, bad: int) -> None:
    ids = np.array([[1, 2, 3], [4, bad, 6]], np.int32)
    with pytest.raises(InvalidInput) as refused:
        run(detector, ids=ids, scale=np.array(1.0, np.float32))
    assert refused.value.message == (
        f"input 'ids' has the id {bad} at [1, 1]; the model knows 0 to 99"
    )


def test_a_size_that_the_program_refuses_is_the_caller_s_error(
    saved: Saved, loaded: Callable[..., Runner]
) -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    rows, width = Dim("rows", max=9), Dim("width")
    two = torch.rand(4, 2)
    runner = loaded(saved(Sum(), two, two, dynamic=({0: rows, 1: width}, {0: rows, 1: width})))
    with pytest.raises(InvalidInput, match=r"refuses the input: b\.size\(\)\[1\] == a\.size"):
        run(runner, a=np.ones((5, 2), np.float32), b=np.ones((5, 3), np.float32))
    many = np.arange(40, dtype=np.float32).reshape(20, 2)
    found = run(runner, a=many, b=many)["output_0"]
    np.testing.assert_array_equal(found, 2 * many)
    with pytest.raises(InvalidInput, match="no rows"):
        run(runner, a=many[:0], b=many[:0])


class Product(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b


@pytest.mark.parametrize("kind", ["program", "one row", "TorchScript"])
@pytest.mark.parametrize("lengths", [(4, 5), (5, 4), (4, 1)])
def test_inputs_of_different_lengths_are_never_cut_to_the_shorter_one(
    kind: str,
    lengths: tuple[int, int],
    saved: Saved,
    scripted: Callable[[nn.Module], Path],
    loaded: Callable[..., Runner],
) -> None:
    specs = tuple(TensorSpec(name, DType.FLOAT32, (None, 2)) for name in "ab")
    if kind == "TorchScript":
        runner = loaded(scripted(Product()), inputs=specs)
    else:
        dynamic = ({0: Dim.DYNAMIC},) * 2 if kind == "program" else None
        like = torch.rand(1 if dynamic is None else 3, 2)
        runner = loaded(saved(Product(), like, like, dynamic=dynamic))
    with pytest.raises(InvalidInput) as refused:
        run(runner, a=np.ones((lengths[0], 2), np.float32), b=np.ones((lengths[1], 2), np.float32))
    assert refused.value.message == (
        f"the inputs differ in the number of rows: 'a' has {lengths[0]}, 'b' has {lengths[1]}"
    )


def test_a_fixed_batch_of_one_is_run_row_by_row(
    saved: Saved, loaded: Callable[..., Runner]
) -> None:
    runner = loaded(saved(nn.Linear(3, 2), torch.rand(1, 3), dynamic=None))
    rows = np.random.default_rng(0).random((7, 3), np.float32)
    together = run(runner, input=rows)["output_0"]
    alone = np.concatenate([run(runner, input=row[np.newaxis])["output_0"] for row in rows])
    np.testing.assert_array_equal(together, alone)


def test_torchscript_is_served_with_the_names_of_the_export(
    scripted: Callable[[nn.Module], Path], loaded: Callable[..., Runner]
) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    spec = TensorSpec("features", DType.FLOAT32, (None, 3))
    runner = loaded(scripted(module), inputs=(spec,))
    rows = np.random.default_rng(0).random((4, 3), np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(run(runner, features=rows)["output_0"], expected, rtol=1e-6)


def test_torchscript_without_a_manifest_says_what_to_do(
    scripted: Callable[[nn.Module], Path], tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    scripted(nn.Linear(3, 2)).rename(tmp_path / "m" / "1" / "model.pt")
    with pytest.raises(ModelLoadFailed, match="described: none") as refused:
        plugins.backend("torch").load(Artifact.open(tmp_path / "m", "m", 1), LoadOptions())
    assert "--input" in str(refused.value.hint)


def test_devices_that_are_not_there_are_refused_with_those_that_are() -> None:
    assert str(device_for("cpu")) == "cpu"
    assert (
        str(device_for(None))
        == str(device_for("auto"))
        == devices()[-1 if len(devices()) > 1 else 0]
    )
    for wanted in ("cuda:99", "gpu", "cuda" if len(devices()) == 1 else "cuda:98"):
        with pytest.raises(PluginError) as refused:
            device_for(wanted)
        assert f"no device {wanted!r} (there are: cpu" in refused.value.message
        assert refused.value.hint


def test_a_gpu_for_jpegs_needs_a_gpu(colours: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a GPU, and the model runs on cpu"):
        NvJpeg(torch.device("cpu"))
    from mlserve.testing.artifacts import exported

    artifact = exported("torch", colours, tmp_path / "m")
    options = LoadOptions(device="cpu", jpeg_decoder=JpegChoice.GPU)
    with pytest.raises(UsageError, match="--jpeg-decoder gpu"):
        plugins.backend("torch").load(artifact, options)


def test_a_jpeg_decoder_for_a_model_of_tensors_is_said_to_have_no_effect(
    saved: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ModelRequest("m", str(saved(Same(), torch.zeros(2, 3))), kind=Kind.TENSORS)
    artifact = export.export(wanted, "torch", store=tmp_path / "store")
    options = LoadOptions(jpeg_decoder=JpegChoice.ACCURATE)
    plugins.backend("torch").load(artifact, options).close()
    assert "--jpeg-decoder has no effect" in caplog.text
