"""Decode JPEGs on the GPU with nvJPEG, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mlserve.errors import PluginError, UsageError, reason_of
from mlserve.image_pipeline.codec import Pixels


class NvJpeg:
    """Decodes usual JPEGs on that device.

    Its pixels differ from those of libjpeg-turbo, by one or two steps of 255 as a rule. Raises
    UsageError for the CPU, and PluginError without a torchvision that decodes on a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise UsageError(
                f"--jpeg-decoder gpu needs a GPU, and the model runs on {device}",
                hint="leave --jpeg-decoder out, or choose a GPU: --device cuda",
            )
        try:
            from torchvision.io import ImageReadMode, decode_jpeg
        except (ImportError, RuntimeError) as error:  # torchvision of another build of torch
            raise PluginError(
                f"--jpeg-decoder gpu needs torchvision: {reason_of(error)}",
                hint="install the torchvision that belongs to this torch, or leave --jpeg-decoder "
                "out",
            ) from error
        self._device = device
        self._decode_jpeg = decode_jpeg
        self._mode = ImageReadMode.RGB

    def __call__(self, data: bytes) -> Pixels:
        """Decode one file to an array, as a `JpegDecoder`. Raises ValueError."""
        (pixels,) = self.decoded([np.frombuffer(data, np.uint8)])
        if pixels is None:
            raise ValueError("nvJPEG cannot decode it")
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    def decoded(self, files: Sequence[Pixels]) -> list[torch.Tensor | None]:
        """Decode the files, uint8[bytes], together: uint8[3, height, width] on the device each.

        None stands for one that nvJPEG refuses.
        """
        tensors = [torch.from_numpy(file.copy()) for file in files]
        try:
            found: list[torch.Tensor | None] = self._decode_jpeg(
                tensors, mode=self._mode, device=self._device
            )
        except (torch.AcceleratorError, torch.OutOfMemoryError):
            raise
        except RuntimeError:
            if len(files) == 1:
                return [None]
            return [pixels for file in files for pixels in self.decoded([file])]
        return found
