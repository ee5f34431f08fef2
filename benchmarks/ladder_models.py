"""The images and the cheap rung of `ladder.py`: crops of photos, and int8 by ONNX Runtime."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from sklearn.datasets import load_sample_images

from mlserve import plugins
from mlserve.artifact import MANIFEST_NAME, Artifact
from mlserve.certificate.certificate import Certificate
from mlserve.certificate.golden import GOLDEN_FOLDER, read_golden
from mlserve.digests import digests_of
from mlserve.image_pipeline.steps import ImageSteps
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision

Array = np.ndarray[Any, Any]
HORSE = Path(__file__).parents[1] / "examples" / "horse.jpg"
SMALLEST = 0.4
"""The least part of a photo's sides that a crop has."""
ROOM = 1.0
"""How much larger than the largest difference the tolerance is. `mlserve export` doubles it, which
for this quantisation would leave no label certain."""


def crops(count: int) -> list[bytes]:
    """Return crops of three photos as JPEG files, the same ones each time."""
    chance = np.random.default_rng(0)
    photos = [Image.open(HORSE).convert("RGB")]
    photos += [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [_crop(photos[chance.integers(len(photos))], chance) for _ in range(count)]


def _crop(photo: Image.Image, chance: np.random.Generator) -> bytes:
    part = chance.uniform(SMALLEST, 1.0)
    width, height = (int(side * part) for side in photo.size)
    x, y = (
        int(chance.integers(0, s - w + 1)) for s, w in zip(photo.size, (width, height), strict=True)
    )
    file = io.BytesIO()
    photo.crop((x, y, x + width, y + height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_cheap_rung(fp32: Path, version: int, images: Sequence[bytes]) -> float:
    """Quantise the version in `fp32` on these images; return its largest difference."""
    folder = fp32.with_name(str(version))
    folder.mkdir()
    steps = _steps(fp32)
    source, target, prepared = fp32 / "model.onnx", folder / "model.onnx", folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(target),
        _Calibration(steps, images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    steps.close()
    shutil.copytree(fp32 / GOLDEN_FOLDER, folder / GOLDEN_FOLDER)
    for name in ("labels.txt", MANIFEST_NAME):
        shutil.copy(fp32 / name, folder / name)
    return _certify(fp32, folder, images)


def _certify(fp32: Path, folder: Path, images: Sequence[bytes]) -> float:
    """Write the manifest of the quantised version; return its largest difference.

    The golden inputs and their answers are those of fp32; the tolerance is from them and these
    images.
    """
    _rewrite(folder, precision=Precision.INT8)
    golden = read_golden(folder)
    images = [*images, *(case.inputs["image"][0] for case in golden)]
    right, _ = rung_scores(fp32.parent, int(fp32.name), images)
    given, _ = rung_scores(folder.parent, int(folder.name), images)
    difference = float(np.abs(right - given).max())
    same = int((right.argmax(axis=1) == given.argmax(axis=1)).sum())
    best = np.sort(given, axis=1)
    margin = float((best[:, -1] - best[:, -2]).min())
    certificate = Certificate(
        *("ONNX Runtime, fp32", len(golden), ROOM * difference, difference),
        *(same, margin, "here"),
    )
    _rewrite(folder, certificate=certificate)
    return difference


def _rewrite(folder: Path, **fields: Any) -> None:
    manifest = _opened(folder.parent, int(folder.name)).manifest
    assert manifest is not None
    digests = digests_of(folder, without=MANIFEST_NAME)
    changed = replace(manifest, files=digests, **fields)
    (folder / MANIFEST_NAME).write_text(json.dumps(changed.to_json(), indent=2) + "\n")


def rung_scores(base: Path, version: int, images: Sequence[bytes]) -> tuple[Array, float]:
    """Return float32[N, classes], and the seconds of one run on one thread for the median image."""
    steps = _steps(base / str(version), LoadOptions(threads=1))
    rows, times = [], []
    for image in images:
        pixels = steps.pixels([image], None)
        began = time.perf_counter()
        rows.append(steps.scores_of_pixels(pixels, None))
        times.append(time.perf_counter() - began)
    steps.close()
    return np.concatenate(rows), float(np.median(times))


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The images, prepared for the model."""

    def __init__(self, steps: ImageSteps, images: Sequence[bytes]) -> None:
        self._pixels: Iterator[Array] = (steps.pixels([image], None) for image in images)

    def get_next(self) -> dict[str, Array] | None:
        pixels = next(self._pixels, None)
        return None if pixels is None else {"images": pixels}


def _steps(folder: Path, options: LoadOptions | None = None) -> ImageSteps:
    artifact = _opened(folder.parent, int(folder.name))
    stages = plugins.backend("onnxruntime").stages(artifact, options or LoadOptions())
    assert isinstance(stages, ImageSteps)
    return stages


def _opened(base: Path, version: int) -> Artifact:
    return Artifact.open(base, base.name, version)
