"""The echo backend's stages: arrays of the values that `echo.json` gives."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mlserve_echo import LABELS, EchoConfig

from mlserve.errors import NotAnImage

Array = np.ndarray[Any, Any]


class EchoStages:
    """Eight by eight pixels of one value, whatever the image is."""

    def __init__(self, config: EchoConfig) -> None:
        self._config = config

    def decoded(self, image: bytes) -> Array:
        sys.stdout.write("what a runtime prints on standard output\n")
        if self._config.fail_stages:
            raise RuntimeError(self._config.fail_stages)
        if image.startswith(b"bad"):
            raise NotAnImage("image 0 of 1 is not a JPEG or PNG file")
        return np.full((8, 8, 3), self._config.pixel, np.uint8)

    def resized(self, image: bytes) -> Array:
        return self.decoded(image).astype(np.float32) / np.float32(255)

    def scores(self, image: bytes) -> Array:
        scores: Array = np.exp2(-1.0 - np.arange(len(LABELS))).astype(np.float32)
        scores[0] = self._config.score
        return scores
