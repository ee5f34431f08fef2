"""Decode JPEGs on the GPU with nvJPEG, through torchvision."""

from __future__ import annotations

import numpy as np
import torch

from mlserve.errors import PluginError, UsageError, reason_of
from mlserve.image_pipeline.codec import Pixels
from mlserve.image_pipeline.jpeg import JpegDecoder


def gpu_decoder(device: torch.device) -> JpegDecoder:
    """Return a decoder of usual JPEGs for that device.

    Its pixels differ from those of libjpeg-turbo, by one or two steps of 255 as a rule. Raises
    UsageError for the CPU, and PluginError without a torchvision that decodes on a GPU.
    """
    if device.type != "cuda":
        raise UsageError(
            f"--jpeg-decoder gpu needs a GPU, and the model runs on {device}",
            hint="leave --jpeg-decoder out, or choose a GPU: --device cuda",
        )
    try:
        from torchvision.io import ImageReadMode
        from torchvision.io import decode_jpeg as decode
    except (ImportError, RuntimeError) as error:  # torchvision of another build of torch
        raise PluginError(
            f"--jpeg-decoder gpu needs torchvision: {reason_of(error)}",
            hint="install the torchvision that belongs to this torch, or leave --jpeg-decoder out",
        ) from error

    def decoded(data: bytes) -> Pixels:
        file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            pixels = decode(file, mode=ImageReadMode.RGB, device=device)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    return decoded
