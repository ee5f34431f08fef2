"""A PyTorch classifier gives its training code's scores: its pixels are resized by Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlserve_torch.backend import TorchBackend
from PIL import Image
from torch import nn

from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Channels
from mlserve.sources import ModelRequest
from mlserve.testing.images import noise
from mlserve.testing.images import saved as encoded

pytestmark = pytest.mark.framework


class Network(nn.Module):
    """A convolution over 24x24 pixels of so many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(channels, 4, 5), nn.Linear(4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(pixels)).mean((2, 3)))


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (3, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        (1, {"mean": (0.1307,), "std": (0.3081,), "channels": Channels.GREY}),
    ],
)
def test_the_pixels_and_the_scores_are_those_of_training(
    channels: int, options: dict[str, Any], saved: Callable[..., Path], tmp_path: Path
) -> None:
    network = Network(channels)
    path = saved(network, torch.rand(2, channels, 24, 24))
    pixels = PixelOptions(antialias=True, **options)
    artifact = export(
        ModelRequest("own", str(path), ("a", "b", "c"), pixels=pixels), "torch", store=tmp_path
    )
    image = noise(83, 61)
    small = image.convert("L" if channels == 1 else "RGB").resize(
        (24, 61), Image.Resampling.BILINEAR
    )
    values = torch.from_numpy(np.array(small.resize((24, 24), Image.Resampling.BILINEAR)))
    values = values.view(24, 24, channels).float() / 255
    values = (values - torch.tensor(options["mean"])) / torch.tensor(options["std"])
    steps = TorchBackend().stages(artifact, LoadOptions(threads=1))
    np.testing.assert_array_equal(steps.resized(encoded(image, "PNG")), values.numpy())
    with torch.inference_mode():
        scores = network(values.permute(2, 0, 1)[None]).softmax(1)[0]
    np.testing.assert_allclose(steps.scores(encoded(image, "PNG")), scores.numpy(), rtol=1e-5)


def test_one_channel_is_an_image_only_if_the_user_says_so(saved: Callable[..., Path]) -> None:
    path = saved(Network(1), torch.rand(2, 1, 24, 24))
    from mlserve_torch.source import model_of_file

    model = model_of_file(path, ModelRequest("own", str(path)))
    assert model.facts["kind"].why.endswith("if it takes grey images, say --channels grey")
