"""The preprocessing of a model's own library or file, from the command's value to the pixels."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlserve_torch.backend import TorchBackend
from mlserve_torch.training import preprocessing_of
from PIL import Image
from torch import nn

from mlserve.errors import ExportError, PluginError, UsageError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.preprocessors.choice import preprocessor
from mlserve.sources import Fact, How, ModelRequest
from mlserve.testing.images import noise
from mlserve.testing.images import saved as encoded

pytestmark = pytest.mark.framework

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 4, 5), nn.Linear(4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(pixels)).mean((2, 3)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of Hugging Face's files: images of 28x28, three labels."""
    data = {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 28},
        "image_mean": MEAN,
        "image_std": STD,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    config = {"id2label": {"0": "cat", "1": "dog", "2": "emu"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_model_of_hugging_face_gets_its_pixels_and_labels(
    folder: Path, saved: Callable[..., Path], tmp_path: Path
) -> None:
    path = saved(Network(), torch.rand(2, 3, 28, 28))
    request = ModelRequest("own", str(path), preprocessor=str(folder))
    artifact = export(request, "torch", store=tmp_path / "store")
    assert artifact.labels() == ("cat", "dog", "emu")
    assert artifact.manifest is not None
    facts = artifact.manifest.facts
    assert facts["labels"] == Fact(How.GIVEN, f"id2label in {folder / 'config.json'}")
    assert facts["mean"] == Fact(How.GIVEN, str(folder / "preprocessor_config.json"))
    image = noise(75, 41)
    middle = image.resize((58, 41), Image.Resampling.BICUBIC)
    small = np.asarray(middle.resize((58, 32), Image.Resampling.BICUBIC))[2:30, 15:43]
    scaled = (small.astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    steps = TorchBackend().stages(artifact, LoadOptions(threads=1))
    np.testing.assert_array_equal(steps.resized(encoded(image, "PNG")), expected)


def test_a_preprocessor_of_other_images_or_for_other_models_is_refused(
    folder: Path, saved: Callable[..., Path], tmp_path: Path
) -> None:
    large = saved(Network(), torch.rand(2, 3, 40, 40))
    request = ModelRequest("own", str(large), preprocessor=str(folder))
    with pytest.raises(ExportError, match="makes images of 28x28, and the model takes 40x40"):
        export(request, "torch", store=tmp_path / "store")
    rows = saved(nn.Linear(4, 3), torch.rand(2, 4))
    request = ModelRequest("own", str(rows), preprocessor=str(folder))
    with pytest.raises(UsageError, match="--preprocessor is for image classifiers, and own is not"):
        export(request, "torch", store=tmp_path / "store")


class Interpolation(Enum):
    BILINEAR = "bilinear"


class ImageClassification:
    """As torchvision's preset; its PyPI wheel does not import beside PyTorch for the CPU."""

    crop_size, resize_size = (224,), (232,)
    mean, std, interpolation = MEAN, STD, Interpolation.BILINEAR


class ObjectDetection:
    """As torchvision's preset of detectors."""


def weights(preset: type) -> Any:
    return SimpleNamespace(transforms=preset, meta={"categories": ["cat", "dog"]})


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"resnet50": weights(ImageClassification), "fasterrcnn": weights(ObjectDetection)}
    models: Any = ModuleType("torchvision.models")

    def get_model_weights(name: str) -> Any:
        if name not in known:
            raise ValueError(f"Unknown model {name}")
        return SimpleNamespace(DEFAULT=known[name])

    models.get_model_weights = get_model_weights
    models.get_weight = lambda name: known[name.partition("_")[0].lower()]
    models.list_models = lambda: list(known)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.usefixtures("torchvision")
def test_weights_of_torchvision_by_model_or_by_name() -> None:
    found = preprocessor("torchvision:resnet50")
    assert found.pixels.size == (232, 232)
    assert found.labels == ("cat", "dog")
    by_weights = preprocessor("torchvision:ResNet50_Weights.IMAGENET1K_V2")
    assert by_weights.pixels.mean == found.pixels.mean
    with pytest.raises(UsageError, match="torchvision has no weights 'resnet5'") as refused:
        preprocessor("torchvision:resnet5")
    assert str(refused.value.hint).startswith("did you mean torchvision:resnet50?")
    with pytest.raises(UsageError, match="prepares ObjectDetection, not images to classify"):
        preprocessor("torchvision:fasterrcnn")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_absent_or_broken_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(PluginError, match=f"needs {library}, which is not installed") as absent:
        preprocessing_of(library, "resnet50")
    assert absent.value.hint
    assert absent.value.hint.startswith("pip install")
    assert f"torch[{library}]" in absent.value.hint
    sys.meta_path.pop(0)
    (tmp_path / f"{library}.py").write_text("raise RuntimeError('no operator torchvision::nms')")
    with pytest.raises(PluginError, match=f"{library} is installed but does not import: Runtime"):
        preprocessing_of(library, "resnet50")


class Absent:
    """Finds neither library."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in ("torchvision", "timm"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
