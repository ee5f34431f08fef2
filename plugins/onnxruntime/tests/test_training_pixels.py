"""An exported ONNX classifier gives the scores of the training code, for every kind of pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mlserve_onnxruntime.backend import OnnxRuntimeBackend
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from mlserve.artifact import Artifact
from mlserve.errors import UsageError
from mlserve.export import export
from mlserve.load_options import LoadOptions
from mlserve.pixel_options import PixelOptions
from mlserve.preprocessing import Channels, Interpolation, ResizeMode
from mlserve.sources import How, Kind, ModelRequest
from mlserve.testing.images import noise, saved

pytestmark = pytest.mark.framework

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = ("a", "b", "c")
SIZE = 24


@pytest.fixture
def network(tmp_path: Path) -> Callable[..., Path]:
    """Writes a convolution of images with so many channels, and a mean: every pixel counts."""

    def write(channels: int = 3, *, is_last: bool = False) -> Path:
        shape = ["N", SIZE, SIZE, channels] if is_last else ["N", channels, SIZE, SIZE]
        weights = np.random.default_rng(0).normal(size=(3, channels, 5, 5)).astype(np.float32)
        order = [0, 3, 1, 2] if is_last else [0, 1, 2, 3]
        nodes = [
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=order),
            helper.make_node("Conv", ["planes", "weights"], ["features"]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("ReduceMean", ["positive"], ["logits"], axes=[2, 3], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(weights, "weights")],
        )
        path = tmp_path / f"network-{channels}-{is_last}.onnx"
        opset = helper.make_operatorsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
        return path

    return write


def of_torchvision(image: Image.Image) -> Any:
    """Resize(27), CenterCrop(24), ToTensor, Normalize."""
    width, height = image.size
    short = min(width, height)
    wide, tall = int(27 * width / short), int(27 * height / short)
    small = image.resize((wide, height), Image.Resampling.BICUBIC)
    small = small.resize((wide, tall), Image.Resampling.BICUBIC)
    left, top = round((wide - SIZE) / 2), round((tall - SIZE) / 2)
    values = np.asarray(small.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    values = values / np.float32(255) - np.array(MEAN, np.float32)
    return values / np.array(STD, np.float32)


def of_caffe(image: Image.Image) -> Any:
    """BGR minus a mean, the nearest pixels."""
    values = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.NEAREST), np.float32)
    return values[:, :, ::-1] - np.array((103.939, 116.779, 123.68), np.float32)


def of_digits(image: Image.Image) -> Any:
    """Grey(1), Resize, ToTensor, Normalize, as for MNIST."""
    small = image.convert("L").resize((SIZE, image.height), Image.Resampling.BILINEAR)
    small = small.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32)[:, :, np.newaxis] / np.float32(255)
    return (values - np.float32(0.1307)) / np.float32(0.3081)


TORCHVISION = {
    "pixels": PixelOptions(
        crop=24 / 27, interpolation=Interpolation.BICUBIC, antialias=True, mean=MEAN, std=STD
    )
}
CAFFE = {
    "scale": (0.0, 255.0),
    "pixels": PixelOptions(
        channels=Channels.BGR,
        interpolation=Interpolation.NEAREST,
        mean=(103.939, 116.779, 123.68),
    ),
}
DIGITS = {
    "pixels": PixelOptions(channels=Channels.GREY, antialias=True, mean=(0.1307,), std=(0.3081,))
}


@pytest.mark.parametrize(
    ("options", "training", "channels", "is_last"),
    [
        (TORCHVISION, of_torchvision, 3, False),
        (CAFFE, of_caffe, 3, True),
        (DIGITS, of_digits, 1, False),
        (DIGITS, of_digits, 1, True),
        (DIGITS, lambda image: np.repeat(of_digits(image), 3, axis=2), 3, False),
    ],
    ids=["torchvision", "caffe", "one channel first", "one channel last", "grey in three"],
)
def test_the_pixels_and_the_scores_are_those_of_training(
    network: Callable[..., Path],
    tmp_path: Path,
    options: dict[str, Any],
    training: Callable[[Image.Image], Any],
    channels: int,
    is_last: bool,
) -> None:
    path = network(channels, is_last=is_last)
    request = ModelRequest("own", str(path), LABELS, **options)
    artifact = export(request, "onnxruntime", store=tmp_path / "store")
    image = noise(83, 61, 3)
    expected = training(image)
    artifact = read_again(artifact)
    steps = OnnxRuntimeBackend().stages(artifact, LoadOptions(threads=1))
    np.testing.assert_array_equal(steps.resized(saved(image, "PNG")), expected)
    given = expected[np.newaxis] if is_last else expected.transpose(2, 0, 1)[np.newaxis]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": np.ascontiguousarray(given)})[0]
    weights = np.exp(logits - logits.max())
    scores = weights / weights.sum()
    np.testing.assert_allclose(steps.scores(saved(image, "PNG")), scores, 1e-5)
    runner = OnnxRuntimeBackend().load(artifact, LoadOptions(threads=1))
    answer = runner.run("top_k", {"image": np.array([saved(image, "PNG")] * 2, dtype=object)})
    np.testing.assert_allclose(answer["scores"], [np.sort(scores)[::-1]] * 2, 1e-5)


def read_again(artifact: Artifact) -> Artifact:
    """The artifact as a server finds it: its manifest read from the file."""
    again = Artifact.open(artifact.path.parent, artifact.model, artifact.version)
    assert again.manifest is not None
    assert again.manifest.pipeline is not None
    assert again.manifest.pipeline.version == 3
    assert again.manifest.facts["antialias"].how in (How.GIVEN, How.ASSUMED)
    return again


def test_one_channel_is_an_image_only_if_the_user_says_so(
    network: Callable[..., Path], tmp_path: Path
) -> None:
    plain = ModelRequest("own", str(network(1)))
    artifact = export(plain, "onnxruntime", store=tmp_path)
    assert artifact.manifest is not None
    assert artifact.manifest.kind is Kind.TENSORS
    with pytest.raises(UsageError, match="if it takes grey images, say --channels grey"):
        export(ModelRequest("own", plain.weights, LABELS), "onnxruntime", store=tmp_path)


def test_a_letterbox_is_filled_and_served(network: Callable[..., Path], tmp_path: Path) -> None:
    pixels = PixelOptions(mode=ResizeMode.LETTERBOX, fill=(114,))
    request = ModelRequest("own", str(network()), LABELS, scale=(0.0, 1.0), pixels=pixels)
    artifact = export(request, "onnxruntime", store=tmp_path)
    steps = OnnxRuntimeBackend().stages(artifact, LoadOptions(threads=1))
    found = steps.resized(saved(noise(48, 12, 3), "PNG"))
    assert (found[:9] == np.float32(114) / np.float32(255)).all()
    assert (found[15:] == np.float32(114) / np.float32(255)).all()
    assert len(np.unique(found[9:15])) > 10
