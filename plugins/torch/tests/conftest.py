"""What this plugin's tests share: small models as programs and TorchScript, and loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlserve import export, plugins
from mlserve.backend import Runner
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation
from mlserve.sources import Classifier, Kind, ModelRequest
from mlserve.testing.colours import colour_classifier

DYNAMIC = torch.export.Dim.DYNAMIC
Saved = Callable[..., Path]


class MeanColours(nn.Module):
    """The mean over the pixels, in either layout: float32[N, 3]."""

    def __init__(self, axes: tuple[int, int] = (1, 2)) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(self.axes)


class DividedColours(MeanColours):
    """m / m * m of each mean m: NaN where that is 0."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        means = pixels.mean(self.axes)
        return means / means * means


def program_of(module: nn.Module, *inputs: Any, dynamic: Any = ({0: DYNAMIC},)) -> Any:
    """The program of a module in evaluation mode."""
    return torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Saves a program as `.pt2`: `saved(module, *inputs, dynamic=...)`."""

    def save(module: nn.Module, *inputs: Any, dynamic: Any = ({0: DYNAMIC},)) -> Path:
        path = tmp_path_factory.mktemp("torch") / "model.pt2"
        torch.export.save(program_of(module, *inputs, dynamic=dynamic), path)
        return path

    return save


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[[nn.Module], Path]:
    """Saves a module as TorchScript, which torch calls deprecated and people still have."""

    def save(module: nn.Module) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(module.eval()).save(str(tmp_path / "script.pt"))
        return tmp_path / "script.pt"

    return save


@pytest.fixture(scope="session")
def colours(saved: Saved) -> Classifier:
    """The colour classifier of the conformance suite, as a program."""
    return colour_classifier(saved(MeanColours(), torch.rand(2, 8, 8, 3)), framework="torch")


@pytest.fixture(scope="session")
def divided_colours(saved: Saved) -> Classifier:
    """The one whose scores are NaN where a mean is 0."""
    path = saved(DividedColours(), torch.rand(2, 8, 8, 3))
    return colour_classifier(path, framework="torch", activation=Activation.IDENTITY)


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Runner]:
    """Exports a file as tensors, as the command does, and loads it: `loaded(path)`."""

    def load(path: Path, **request: Any) -> Runner:
        wanted = ModelRequest("m", str(path), kind=Kind.TENSORS, **request)
        return plugins.backend("torch").load(
            export.export(wanted, "torch", store=tmp_path / "store"), LoadOptions()
        )

    return load
