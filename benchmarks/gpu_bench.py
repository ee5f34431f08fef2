"""What the parts of `gpu.py` share: the bench, the network and the photo."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from mlserve.artifact import Artifact

MODEL = "inception"


@dataclass
class Bench:
    """What the parts share: the device, the folder, how much is measured, and the model."""

    device: str
    quick: bool
    folder: Path
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def calls(self) -> int:
        return 10 if self.quick else 50

    @property
    def classes(self) -> int:
        return 10 if self.found.get("network") == "small" else 1000

    @property
    def size(self) -> int:
        return 32 if self.found.get("network") == "small" else 299

    def artifact(self) -> Artifact:
        """The exported model. Raises KeyError if the part `export` has failed."""
        found: Artifact = self.found["artifact"]
        return found

    def synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], calls: int | None = None) -> float:
        """The median time of a call, with the work that it leaves on the GPU."""
        for _ in range(3):
            call()
        times = []
        for _ in range(calls or self.calls):
            self.synchronize()
            started = time.perf_counter()
            call()
            self.synchronize()
            times.append((time.perf_counter() - started) * 1000)
        return round(statistics.median(times), 3)


def network(bench: Bench) -> nn.Module:
    """Inception v3 with seeded weights, in evaluation mode, behind its own normalization."""
    torch.manual_seed(0)
    try:
        from torchvision.models import inception_v3

        inner: nn.Module = inception_v3(weights=None, init_weights=False, transform_input=False)
        bench.found["network"] = "inception_v3"
    except (ImportError, RuntimeError):  # torchvision of another build of torch
        if bench.is_gpu:
            raise
        layers = (nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        inner = nn.Sequential(*layers, nn.Linear(16, 10))
        bench.found["network"] = "small"
    model = Normalized(inner).eval()
    settle(model, torch.rand(8, 3, bench.size, bench.size))
    return model


def settle(model: nn.Module, pixels: torch.Tensor) -> None:
    """Set the statistics of all batch norms, without which the scores of seeded weights explode.

    One class then has all of the score, and no difference shows.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(pixels)
    model.eval()


class Normalized(nn.Module):
    """Takes pixels in 0..1."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner((pixels - 0.5) / 0.5)
        return scores


def photo(size: int = 64_000) -> bytes:
    """A JPEG of 640x480 of about that many bytes: soft shapes with some grain."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    soft = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    grain = rng.normal(0, 9, soft.shape).astype(np.int16)
    picture = Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))
    for quality in range(95, 10, -5):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if len(file.getvalue()) <= size:
            break
    return file.getvalue()


def strings(images: list[bytes]) -> Any:
    array = np.empty(len(images), dtype=object)
    array[:] = images
    return array


photo_bytes = photo()


def numbered(photo: bytes, number: int) -> bytes:
    """Return the photo with a comment: a server reads a photo that repeats only once."""
    head = 20  # the start, and a JFIF segment without a thumbnail
    return photo[:head] + b"\xff\xfe\0\3" + bytes([number]) + photo[head:]
