"""What is found out about the user's own file: kind, names, types, batch, scale, activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlserve_torch.source import model_of_file
from torch import nn

from mlserve.errors import ExportError, MlserveError, UsageError
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, How, Kind, ModelRequest, TensorModel
from mlserve.tensors import DType, TensorSpec

pytestmark = pytest.mark.framework

Dim = torch.export.Dim
LABELS = ("red", "green", "blue")


class Network(nn.Module):
    """A network for images of 16x16; `before` is done to the pixels, `after` to the logits."""

    def __init__(self, before: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.conv(self.before(pixels))))
        return self.after(self.last(features.mean((2, 3))))


class Standardize(nn.Module):
    """What torchvision's models want: 0..1 minus a mean, divided by a deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) / self.std


class Scale(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels / 127.5 - 1.0


class Detector(nn.Module):
    """Token ids and a mask in; a dict with a nested tuple, scalars and a flag out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(100, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, *, factor: float = 1.0) -> Any:
        mean = (self.table(ids) * mask.unsqueeze(-1)).mean(1)
        best = (mean.argmax(-1), mean.half())
        return {"boxes": self.last(mean) * factor, "best": best, "flag": mask.any(), "none": None}


def opened(path: Path, **options: Any) -> Any:
    return model_of_file(path, ModelRequest("m", str(path), **options))


IMAGES = torch.rand(2, 3, 16, 16)


@pytest.mark.parametrize(
    ("before", "scale"),
    [(Standardize(), (0.0, 1.0)), (Scale(), (0.0, 255.0))],
    ids=["mean and deviation", "-1..1"],
)
def test_the_scale_is_found_in_the_arithmetic_before_the_first_weights(
    before: nn.Module, scale: tuple[float, float], saved: Callable[..., Path]
) -> None:
    model = opened(saved(Network(before), IMAGES), labels=LABELS)
    assert isinstance(model, Classifier)
    pipeline = model.pipeline
    low, high = pipeline.offset, pipeline.offset + 255 * pipeline.scale
    assert (low, high) == pytest.approx(scale)
    assert model.facts["scale"].how is How.FOUND
    assert (pipeline.height, pipeline.width, pipeline.classes) == (16, 16, 3)
    assert pipeline.activation is Activation.SOFTMAX
    assert model.facts["layout"].why == "its input is pixels: float32[?,3,16,16]"


@pytest.mark.parametrize(
    ("after", "activation"),
    [(nn.Identity(), Activation.SOFTMAX), (nn.Softmax(1), Activation.IDENTITY)],
)
def test_the_activation_is_found_in_the_operation_that_makes_the_output(
    after: nn.Module, activation: Activation, saved: Callable[..., Path]
) -> None:
    model = opened(saved(Network(after=after), IMAGES), labels=LABELS, scale=(0.0, 1.0))
    assert model.pipeline.activation is activation
    assert model.facts["activation"].how is How.FOUND


def test_what_the_model_does_not_tell_is_asked_for(saved: Callable[..., Path]) -> None:
    path = saved(Network(), IMAGES)
    with pytest.raises(ExportError, match="which pixel values it was trained on") as asked:
        opened(path, labels=LABELS)
    assert "--scale" in str(asked.value.hint)
    with pytest.raises(ExportError, match="no labels are given"):
        opened(path, scale=(0.0, 1.0))


def test_a_model_in_training_mode_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Its answers depend on the other images of the batch."""
    network = Network(Standardize()).train()
    program = torch.export.export(network, (IMAGES,), dynamic_shapes=({0: Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "training.pt2")
    with pytest.raises(ExportError, match="depends on its neighbours in the batch"):
        opened(tmp_path / "training.pt2", labels=LABELS)


def test_a_program_of_one_image_is_served_row_by_row_and_says_how_to_do_better(
    saved: Callable[..., Path],
) -> None:
    path = saved(Network(Standardize()), IMAGES[:1], dynamic=None)
    model = opened(path, labels=LABELS)
    warning = model.facts["batch"].warning
    assert "a batch is run row by row" in warning
    assert "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)" in warning


def test_a_program_of_a_fixed_batch_of_images_is_refused_with_the_line_that_helps(
    saved: Callable[..., Path],
) -> None:
    path = saved(Network(Standardize()), torch.rand(4, 3, 16, 16), dynamic=None)
    with pytest.raises(ExportError, match="batches of a fixed size") as refused:
        opened(path, labels=LABELS)
    assert "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)" in str(refused.value.hint)
    model = opened(path, kind=Kind.TENSORS)
    assert model.signatures[0].inputs[0].shape == (4, 3, 16, 16)
    assert "no other can be served" in model.facts["batch"].warning


def test_the_line_that_the_hints_give_is_right(saved: Callable[..., Path]) -> None:
    model = opened(saved(Network(Standardize()), IMAGES), labels=LABELS)
    assert "batch" not in model.facts


def test_an_input_without_a_size_needs_one(saved: Callable[..., Path]) -> None:
    open_size = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    path = saved(Network(Standardize()), IMAGES, dynamic=open_size)
    with pytest.raises(ExportError, match="leaves its input size open"):
        opened(path, labels=LABELS)
    model = opened(path, labels=LABELS, input_size=24)
    assert (model.pipeline.height, model.facts["size"].how) == (24, How.GIVEN)


def test_tensors_have_the_program_s_own_names_and_types(saved: Callable[..., Path]) -> None:
    batch = Dim("batch")
    sizes = {0: batch, 1: Dim.DYNAMIC}
    program = torch.export.export(
        Detector().eval(),
        (torch.ones(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.bool)),
        {"factor": 2.0},
        dynamic_shapes={"ids": sizes, "mask": sizes, "factor": None},
    )
    path = saved(nn.Identity(), torch.rand(2, 2)).with_name("detector.pt2")
    torch.export.save(program, path)
    model = opened(path)
    assert isinstance(model, TensorModel)
    (signature,) = model.signatures
    assert signature.inputs == (
        TensorSpec("ids", DType.INT64, (None, None)),
        TensorSpec("mask", DType.BOOL, (None, None)),
    )
    assert signature.outputs == (
        TensorSpec("boxes", DType.FLOAT32, (None, 4)),
        TensorSpec("best_0", DType.INT64, (None,)),
        TensorSpec("best_1", DType.FLOAT16, (None, 8)),
        TensorSpec("flag", DType.BOOL, ()),
    )
    assert model.facts["kind"].how is How.FOUND


def test_torchscript_needs_its_inputs_described(
    scripted: Callable[[nn.Module], Path],
) -> None:
    path = scripted(Network(Standardize()))
    with pytest.raises(ExportError, match=r"takes pixels: Tensor; described: none") as asked:
        opened(path, labels=LABELS)
    assert "--input 'pixels:float32[?,SIZE]'" in str(asked.value.hint)
    spec = TensorSpec("pixels", DType.FLOAT32, (None, 3, 16, 16))
    model = opened(path, labels=LABELS, inputs=(spec,), scale=(0.0, 1.0))
    assert (model.pipeline.classes, model.pipeline.activation) == (3, Activation.SOFTMAX)
    tensors = opened(path, inputs=(spec,), kind=Kind.TENSORS)
    assert tensors.signatures[0].outputs == (TensorSpec("output_0", DType.FLOAT32, (None, 3)),)
    wrong = TensorSpec("pixels", DType.FLOAT32, (None, 4))
    with pytest.raises(ExportError, match="does not run on inputs as described") as refused:
        opened(path, inputs=(wrong,))
    assert "--input" in str(refused.value.hint)


def test_inputs_of_a_program_are_not_described_again(saved: Callable[..., Path]) -> None:
    path = saved(nn.Linear(3, 2), torch.rand(2, 3))
    with pytest.raises(UsageError, match="which says them itself"):
        opened(path, inputs=(TensorSpec("x", DType.FLOAT32, (None, 3)),))


def test_a_size_as_an_input_is_refused(tmp_path: Path) -> None:
    class Repeated(nn.Module):
        def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
            return x.repeat(times, 1)

    program = torch.export.export(
        Repeated(), (torch.rand(2, 3), 3), dynamic_shapes=({0: Dim.DYNAMIC}, Dim.DYNAMIC)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(MlserveError, match="'times' that is a number, not a tensor"):
        opened(tmp_path / "m.pt2")
