"""Train a detector with PyTorch, save it as a `.pt2` program, and serve it: it finds a shape.

    python examples/torch_detector.py
    mlserve export --model sketches --weights build/examples/sketches.pt2
    mlserve up --model sketches
    mlserve predict --input pictures=@build/examples/sketch.npy
    mlserve down

A picture of 32x32 grey values has one rectangle or one cross. The answer has its box (left, top,
right, bottom, as parts of the picture's size), a score for each shape, and the shape: 0 is a
rectangle, 1 a cross. With `--backend onnxruntime`, the same file is converted to ONNX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path("build/examples")
SIZE = 32
SHAPES = ("rectangle", "cross")


class Detector(nn.Module):
    """float32[N, 32, 32] in; boxes (left, top, right, bottom; 0..1), scores and labels out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, 64), nn.ReLU()),
        )
        self.box, self.shape = nn.Linear(64, 4), nn.Linear(64, len(SHAPES))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pictures.unsqueeze(1))
        scores = self.shape(features).softmax(1)
        return {"boxes": self.box(features), "scores": scores, "labels": scores.argmax(1)}


def drawn(count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Draw pictures with some noise; return them with their boxes and the numbers of the shapes."""
    corners = torch.randint(2, 16, (count, 2), generator=generator)
    sizes = torch.randint(6, 14, (count, 2), generator=generator)
    kinds = torch.randint(0, len(SHAPES), (count,), generator=generator)
    at = torch.arange(SIZE)
    low, high = corners[..., None], (corners + sizes)[..., None]
    middle = (corners + sizes // 2)[..., None]
    inside, on_line = (at >= low) & (at < high), (at - middle).abs() < 2
    area = inside[:, 0, None, :] & inside[:, 1, :, None]
    cross = area & (on_line[:, 0, None, :] | on_line[:, 1, :, None])
    pictures = torch.where((kinds == 0)[:, None, None], area, cross).float()
    pictures += 0.1 * torch.randn(pictures.shape, generator=generator)
    return pictures, torch.cat([corners, corners + sizes], 1) / SIZE, kinds


def train(steps: int = 300) -> Detector:
    """Return a detector in evaluation mode."""
    torch.set_num_threads(1)  # the network is too small for more to help
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    detector = Detector()
    optimizer = torch.optim.Adam(detector.parameters(), 2e-3)
    for _ in range(steps):
        pictures, boxes, kinds = drawn(64, generator)
        found = detector(pictures)
        loss = nn.functional.smooth_l1_loss(found["boxes"], boxes, beta=0.05)
        loss = loss + nn.functional.nll_loss(found["scores"].clamp_min(1e-6).log(), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return detector.eval()


def main() -> None:
    """Train, and write the program and a picture."""
    detector = train()
    pictures, boxes, kinds = drawn(200, torch.Generator().manual_seed(8))
    with torch.inference_mode():
        found = detector(pictures)
    distance = (found["boxes"] - boxes).abs().mean().item() * SIZE
    right = (found["labels"] == kinds).float().mean().item()
    print(f"shapes right {right:.1%}, corners off by {distance:.1f} pixels on average")
    # The batch is dynamic: the example has two pictures, as torch.export fixes a size of one.
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(detector, (pictures[:2],), dynamic_shapes=sizes)
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, FOLDER / "sketches.pt2")
    np.save(FOLDER / "sketch.npy", pictures[:1].numpy())


if __name__ == "__main__":
    main()
