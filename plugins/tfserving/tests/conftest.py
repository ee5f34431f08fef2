"""What this plugin's tests share: a tiny classifier, its export, and images of every kind.

The classifier gives the mean red, green and blue of its 8x8 input as logits, so that the exact
answer to an image can be worked out on paper.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend
from PIL import Image

from mlserve.artifact import Artifact, Manifest, digest_of, labels_text
from mlserve.backend import LoadOptions, Runner
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.sources import Classifier

COLOURS = ("red", "green", "blue")
PIPELINE = ImagePipeline(8, 8, 1 / 255, 0.0, Activation.SOFTMAX, 3)

MakeClassifier = Callable[..., Classifier]
Export = Callable[[Classifier, Path], Artifact]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def make_classifier() -> MakeClassifier:
    """Makes a Classifier of a function float32[N, 8, 8, 3] -> float32[N, classes]."""
    import tensorflow as tf

    class Forward(tf.Module):  # type: ignore[misc]
        def __init__(self, function: Callable[[Any], Any]) -> None:
            super().__init__()
            self.function = function
            self.gain = tf.Variable(1.0)  # a model has variables, which must be saved too

        def __call__(self, pixels: Any) -> Any:
            return self.gain * self.function(pixels)

    def mean_colour(pixels: Any) -> Any:
        return tf.reduce_mean(pixels, [1, 2])

    def make(
        function: Callable[[Any], Any] = mean_colour,
        labels: tuple[str, ...] = COLOURS,
        **pipeline: Any,
    ) -> Classifier:
        return Classifier(
            name="colours",
            forward=Forward(function),
            pipeline=replace(PIPELINE, **pipeline),
            labels=labels,
            source="a test",
            weights_digest=digest_of(b""),
        )

    return make


@pytest.fixture(scope="session")
def export_to() -> Export:
    """Exports a classifier as version 1 of a folder, manifest and labels included."""

    def export(model: Classifier, base_path: Path) -> Artifact:
        folder = base_path / "1"
        folder.mkdir(parents=True)
        signatures = TFServingBackend().export(model, folder)
        Manifest(
            mlserve="0",
            backend="tfserving",
            model=model.name,
            source=model.source,
            created="2026-01-01T00:00:00+00:00",
            weights_digest=model.weights_digest,
            labels_digest=digest_of(labels_text(model.labels)),
            has_random_weights=False,
            pipeline=model.pipeline,
            signatures=tuple(signatures),
        ).write(folder, model.labels)
        return Artifact.open(base_path, model.name, 1)

    return export


@pytest.fixture(scope="session")
def artifact(
    make_classifier: MakeClassifier, export_to: Export, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """The exported colour classifier."""
    return export_to(make_classifier(), tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def runner(artifact: Artifact) -> Runner:
    """The exported colour classifier, loaded."""
    return TFServingBackend().load(artifact, LoadOptions())


def strings(*values: bytes) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.fixture(scope="session")
def ask(runner: Runner) -> Ask:
    """Asks the loaded colour classifier about image files: `ask(file, ..., signature=...)`."""

    def run(*images: bytes, signature: str = "serving_default") -> dict[str, Any]:
        return dict(runner.run(signature, {"image": strings(*images)}))

    return run


class Images:
    """Image files, good and bad, made with Pillow and by hand."""

    def file(self, image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
        data = io.BytesIO()
        image.save(data, kind, **options)
        return data.getvalue()

    def plain(self, colour: str, kind: str = "JPEG", size: tuple[int, int] = (20, 12)) -> bytes:
        return self.file(Image.new("RGB", size, colour), kind)

    def noise(self, width: int, height: int, bands: int = 3, seed: int = 0) -> Image.Image:
        """Smooth noise, so that JPEG keeps it roughly as it is."""
        numbers = np.random.default_rng(seed).integers(0, 256, (7, 7, bands), dtype=np.uint8)
        image = Image.fromarray(numbers if bands > 1 else numbers[:, :, 0])
        return image.resize((width, height), Image.Resampling.BILINEAR)

    def png_header(self, width: int, height: int) -> bytes:
        """A PNG of next to no data whose header claims that size."""
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b""))
        body = b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body

    def jpeg_header(self, width: int, height: int) -> bytes:
        """A small JPEG whose frame header claims that size."""
        data = bytearray(self.plain("red"))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
        return bytes(data)

    def base64(self, colour: str) -> bytes:
        return base64.b64encode(self.plain(colour))


@pytest.fixture(scope="session")
def images() -> Images:
    return Images()


def odd_images(make: Images) -> dict[str, tuple[bytes, str]]:
    """Images out of the ordinary that have an answer: the file and the label."""
    red = Image.new("RGB", (20, 12), "red")
    turned = Image.Exif()
    turned[0x0112] = 6
    text = make.base64("blue")
    web_safe = base64.urlsafe_b64encode(make.plain("blue"))
    deep = Image.fromarray(np.full((12, 20), 0x8040, dtype=np.uint16))
    clear = Image.new("RGBA", (20, 12), (255, 0, 0, 0))
    return {
        "1x1": (make.plain("blue", "PNG", (1, 1)), "blue"),
        "one row": (make.plain("green", size=(300, 1)), "green"),
        "PNG": (make.plain("green", "PNG"), "green"),
        "PNG with alpha, which is dropped": (make.file(clear, "PNG"), "red"),
        "16-bit PNG, grey: a tie goes to the first": (make.file(deep, "PNG"), "red"),
        "palette PNG": (make.file(red.quantize(4), "PNG"), "red"),
        "1-bit PNG": (make.file(red.convert("1"), "PNG"), "red"),
        "CMYK JPEG": (make.file(red.convert("CMYK"), "JPEG"), "red"),
        "grey JPEG": (make.file(red.convert("L"), "JPEG"), "red"),
        "progressive JPEG": (make.file(red, "JPEG", progressive=True), "red"),
        "EXIF-rotated JPEG": (make.file(red, "JPEG", exif=turned), "red"),
        "bytes after the end": (make.plain("blue") + b"trailing", "blue"),
        "base64": (text, "blue"),
        "base64 without padding": (text.rstrip(b"="), "blue"),
        "base64 in lines": (
            b"\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
            "blue",
        ),
        "base64 with spaces around": (b" \n" + text + b"\n\t", "blue"),
        "web-safe base64": (web_safe, "blue"),
        "web-safe base64 without padding": (web_safe.rstrip(b"="), "blue"),
        "base64 of a PNG": (base64.b64encode(make.plain("green", "PNG")), "green"),
    }


def bad_images(make: Images) -> dict[str, tuple[bytes, str, str]]:
    """Files that are refused: the file, the error's kind and a part of its message."""
    jpeg, png, text = make.plain("red"), make.plain("red", "PNG"), make.base64("red")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    gif = make.file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    not_an_image, damaged, header = (
        "not a JPEG or PNG file",
        "cut short or altered",
        "no valid size",
    )
    too_large = "too large (20000x20000, at most 100000000 pixels)"
    return {
        "zero bytes": (b"", "not_an_image", "empty: no bytes at all"),
        "text": (b"hello, world\n", "not_an_image", not_an_image),
        "text that is base64": (b"aGVsbG8=", "not_an_image", not_an_image),
        "binary": (bytes(range(256)), "not_an_image", not_an_image),
        "animated GIF": (gif, "not_an_image", not_an_image),
        "base64 of a GIF": (base64.b64encode(gif), "not_an_image", not_an_image),
        "BMP": (make.file(frames[0], "BMP"), "not_an_image", not_an_image),
        "WebP": (make.file(frames[0], "WEBP"), "not_an_image", not_an_image),
        "TIFF": (make.file(frames[0], "TIFF"), "not_an_image", not_an_image),
        "three bytes of JPEG": (jpeg[:3], "not_an_image", damaged),
        "JPEG cut in its header": (jpeg[:100], "not_an_image", damaged),
        "JPEG cut in its data": (jpeg[:-20], "not_an_image", damaged),
        "PNG cut in its header": (png[:20], "not_an_image", header),
        "PNG cut in its data": (png[:-20], "not_an_image", damaged),
        "PNG of no width": (make.png_header(0, 5), "not_an_image", header),
        "PNG of negative width": (make.png_header(2**31 + 5, 5), "not_an_image", header),
        "PNG of 20000x20000": (make.png_header(20000, 20000), "input_too_large", too_large),
        "JPEG of 20000x20000": (make.jpeg_header(20000, 20000), "input_too_large", too_large),
        "base64 with a wrong character": (text[:40] + b"!" + text[41:], "invalid_input", "base64"),
        "base64 of a wrong length": (text[:61], "invalid_input", "base64"),
        "base64 with wrong padding": (text.rstrip(b"=") + b"===", "invalid_input", "base64"),
        "base64 cut short": (text[:400], "not_an_image", damaged),
    }


ODD, BAD = odd_images(Images()), bad_images(Images())


@pytest.fixture(params=list(ODD.values()), ids=list(ODD))
def odd_image(request: pytest.FixtureRequest) -> tuple[bytes, str]:
    """An image out of the ordinary and its label."""
    found: tuple[bytes, str] = request.param
    return found


@pytest.fixture(params=list(BAD.values()), ids=list(BAD))
def bad_image(request: pytest.FixtureRequest) -> tuple[bytes, str, str]:
    """A file that is refused, with the error's kind and a part of its message."""
    found: tuple[bytes, str, str] = request.param
    return found
