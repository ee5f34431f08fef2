"""The resize on the device gives the bits of the one on the CPU; here the device is the CPU."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from mlserve_torch.instances import Instances
from mlserve_torch.program import Program
from mlserve_torch.resizing import Resizing
from mlserve_torch.runner import ImageProgram, PixelProgram
from PIL import Image

from mlserve.errors import InvalidInput
from mlserve.image_pipeline.float_resizing import resized
from mlserve.image_pipeline.jpeg import accurate, decode_jpeg
from mlserve.image_pipeline.steps import Decoding, ImageSteps
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.precision import Precision
from mlserve.tensors import DType, TensorSpec
from tests.harness.eager_capture import EagerCapture

pytestmark = pytest.mark.framework

CPU = torch.device("cpu")
HEIGHT, WIDTH = 29, 31
PIPELINE = ImagePipeline(HEIGHT, WIDTH, 1 / 127.5, -1.0, Activation.IDENTITY, classes=3)
SIZES = [(480, 640), (29, 31), (1, 1), (7, 500), (28, 33), (58, 62), (59, 62), (2, 1), (300, 3)]


def noise(height: int, width: int) -> Any:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def jpeg(height: int, width: int, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(height, width)).save(file, "JPEG", **options)
    return file.getvalue()


def png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(height, width)).save(file, "PNG")
    return file.getvalue()


class PlanarDecoder:
    """Decodes on the CPU into nvJPEG's layout; refuses files of that length. Notes its calls."""

    def __init__(self, refused: int = -1) -> None:
        self.refused = refused
        self.calls: list[int] = []

    def decoded(self, files: Sequence[Any]) -> list[torch.Tensor | None]:
        self.calls.append(len(files))
        return [None if len(file) == self.refused else self._planar(file) for file in files]

    def _planar(self, file: Any) -> torch.Tensor:
        pixels = simplejpeg.decode_jpeg(file.tobytes(), fastdct=False, fastupsample=False)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class Planes:
    """Decodes the file "3" to the noise of the third of SIZES, in nvJPEG's layout."""

    def decoded(self, files: Sequence[Any]) -> list[torch.Tensor | None]:
        images = [noise(*SIZES[int(file.tobytes())]) for file in files]
        return [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]


def expected(image: Any) -> Any:
    values = resized(image, HEIGHT, WIDTH)
    values *= np.float32(PIPELINE.scale)
    values += np.float32(PIPELINE.offset)
    return values


def program() -> Program:
    def means(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [tensors[0].mean((1, 2))]

    return of_pixels(means, TensorSpec("scores", DType.FLOAT32, (None, 3)))


def of_pixels(call: Any, output: TensorSpec) -> Program:
    image = TensorSpec("image", DType.FLOAT32, (None, HEIGHT, WIDTH, 3))
    return Program(call, (image,), (output,), (1, 1000))


def instances(resizing: Resizing | None, *, graphs: bool) -> Instances:
    wanted = program() if resizing is None else resizing.before(program())
    capture = EagerCapture if graphs else None
    return Instances(wanted, CPU, LoadOptions(), is_padded=True, capture=capture)


@pytest.mark.parametrize("decoder", ["cpu", "planar"])
def test_images_of_all_sizes_have_the_bits_of_the_cpu_s_resize(decoder: str) -> None:
    """Among them some that are reduced first, and one that is repeated."""
    output = TensorSpec("pixels", DType.FLOAT32, (None, HEIGHT, WIDTH, 3))
    resizing = Resizing(PIPELINE, CPU, Planes() if decoder == "planar" else None)
    pixels = resizing.before(of_pixels(list, output))
    images = [noise(*size) for size in SIZES]
    assert images[0].size > 4 * HEIGHT * WIDTH * 3 > images[-1].size
    prepared = [resizing.prepare(image) for image in images]
    if decoder == "planar":
        prepared = [np.frombuffer(str(index).encode(), np.uint8) for index in range(len(SIZES))]
    prepared.append(prepared[0])
    (found,) = pixels.call(resizing.inputs(prepared, range(1, len(prepared))))
    wanted = np.stack([expected(image) for image in (*images[1:], images[0])])
    np.testing.assert_array_equal(found.numpy().view(np.uint32), wanted.view(np.uint32))


FILES = [jpeg(*size) if index % 3 else png(*size) for index, size in enumerate(SIZES)]


@pytest.mark.parametrize("decoder", [None, PlanarDecoder(), PlanarDecoder(len(FILES[4]))])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 9, 45])
def test_files_have_the_same_scores_as_with_the_cpu_s_resize(
    decoder: PlanarDecoder | None, rows: int, *, graphs: bool
) -> None:
    """In several parts, too, and where the device's decoder refuses a file, or decodes some."""
    files = (FILES * 5)[:rows]
    resizing = Resizing(PIPELINE, CPU, decoder, lambda data: decode_jpeg(data, PIPELINE.limits))
    here = ImageSteps(PIPELINE, PixelProgram(instances(None, graphs=graphs), Precision.FP32))
    there = ImageSteps(
        PIPELINE,
        ImageProgram(instances(resizing, graphs=graphs), resizing, Precision.FP32),
        Decoding(threads=3),
    )
    there.warm_up()
    if decoder is not None:
        decoder.calls.clear()
    found = there.batch_scores(files, None)
    np.testing.assert_array_equal(found, here.batch_scores(files, None))
    if decoder is not None and rows == 9:
        assert decoder.calls == [6], "all JPEGs of a batch in one call"
    here.close()
    there.close()


@pytest.mark.parametrize("place", [0, 4, 39])
def test_a_file_that_nobody_can_decode_is_named_by_its_place(place: int) -> None:
    damaged = jpeg(64, 64)[:-300]
    files = [jpeg(20 + index, 20) for index in range(40)]
    files[place] = damaged
    resizing = Resizing(
        PIPELINE,
        CPU,
        PlanarDecoder(len(damaged)),
        lambda data: decode_jpeg(data, PIPELINE.limits),
    )
    steps = ImageSteps(
        PIPELINE, ImageProgram(instances(resizing, graphs=True), resizing, Precision.FP32)
    )
    with pytest.raises(InvalidInput, match=f"image {place} of 40 "):
        steps.batch_scores(files, None)
    steps.close()


def test_the_first_of_several_bad_files_is_named_when_threads_decode() -> None:
    files = [jpeg(20 + index, 20) for index in range(40)]
    for place in (37, 11, 12):
        files[place] = b"\xff\xd8\xff damaged"
    resizing = Resizing(PIPELINE, CPU)
    program = ImageProgram(instances(resizing, graphs=False), resizing, Precision.FP32)
    steps = ImageSteps(PIPELINE, program, Decoding(threads=8))
    for _ in range(20):
        with pytest.raises(InvalidInput, match="image 11 of 40 "):
            steps.batch_scores(files, None)
    steps.close()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_left_where_the_caller_wants_them(mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(50, 70)).convert(mode).save(file, "JPEG")
    memory = np.empty((50, 70, 3), np.uint8)
    sizes = []

    def place(height: int, width: int) -> Any:
        sizes.append((height, width))
        return memory

    found = accurate(file.getvalue(), place)
    assert sizes == [(50, 70)]
    assert np.shares_memory(found, memory)
    np.testing.assert_array_equal(memory, accurate(file.getvalue()))
