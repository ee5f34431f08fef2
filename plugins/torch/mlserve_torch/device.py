"""The device that a model runs on: `--device auto|cpu|cuda|cuda:1`, and how torch is set up."""

from __future__ import annotations

from functools import cache

import torch

from mlserve.errors import PluginError
from mlserve.hints import did_you_mean

AUTO, CPU, CUDA = "auto", "cpu", "cuda"


def devices() -> list[str]:
    """Return the devices of this machine by their names in `--device`, the CPU first."""
    return [CPU, *(f"{CUDA}:{index}" for index in range(torch.cuda.device_count()))]


def device_for(wanted: str | None) -> torch.device:
    """Return the device of that name; `auto` (or None) is the first GPU, or the CPU without one.

    Raises PluginError for a device that this machine does not have.
    """
    there = devices()
    name = wanted or AUTO
    if name == AUTO:
        return torch.device(there[1] if len(there) > 1 else CPU)
    if (f"{CUDA}:0" if name == CUDA else name) in there:
        return torch.device(f"{CUDA}:0" if name == CUDA else name)
    why = ""
    if name.startswith(CUDA) and torch.version.cuda is None:
        why = ": this build of PyTorch is for the CPU only"
    raise PluginError(
        f"there is no device {name!r} (there are: {', '.join(there)}){why}",
        hint=did_you_mean(name, [AUTO, *there], "--device ")
        + "leave --device out, or install the driver and a build of PyTorch for it",
    )


@cache
def set_up() -> None:
    """Make the answers of a GPU those of the CPU as far as it can, and repeatable.

    TF32, which PyTorch uses for convolutions, has 10 bits of mantissa instead of 23.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
