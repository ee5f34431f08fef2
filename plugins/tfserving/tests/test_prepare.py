"""The graph makes of an image what the Python pipeline makes of it, bit for bit.

Each case is a function as it is exported, with TensorFlow's optimizer at work on its constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserve_tfserving.backend import TFServingBackend
from PIL import Image

from mlserve.artifact import Artifact
from mlserve.errors import InputTooLarge
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.prepare import prepare
from mlserve.image_pipeline.steps import ImageSteps
from mlserve.images import problem_error
from mlserve.load_options import LoadOptions
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.preprocessing import (
    VERSION_1,
    Arithmetic,
    Channels,
    CropOffset,
    Geometry,
    Interpolation,
    Preprocessing,
    Resize,
    ResizeMode,
    Span,
)
from mlserve.sources import Classifier
from mlserve.testing.images import ODD, saved

pytestmark = pytest.mark.tensorflow

SIZE = (56, 47)
"""Of the models' inputs: height and width."""
SHAPES = [
    (1, 1),
    (1, 61),
    (90, 2),
    (40, 40),
    (56, 47),
    (113, 200),
    (211, 131),
    (64, 601),
    (402, 33),
]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = -0.3
EDGE = (61, 61)
SHORTEST, LETTERBOX = ResizeMode.SHORTEST_EDGE, ResizeMode.LETTERBOX
BILINEAR, BICUBIC, NEAREST = Interpolation
CASES = {
    "version 1": VERSION_1,
    "direct": Preprocessing(resize=Resize(antialias=True), mean=MEAN, std=STD),
    "torchvision": Preprocessing(
        resize=Resize(SHORTEST, EDGE, BILINEAR, antialias=True),
        arithmetic=Arithmetic.DIVIDE,
        mean=MEAN,
        std=STD,
    ),
    "cut more": Preprocessing(
        Channels.BGR,
        resize=Resize(SHORTEST, EDGE, BICUBIC, antialias=True),
        crop_offset=CropOffset.FLOOR,
    ),
    "padded": Preprocessing(
        resize=Resize(SHORTEST, (30, 30), BICUBIC, antialias=True),
        crop_offset=CropOffset.FLOOR_PAD_MORE,
    ),
    "grey": Preprocessing(Channels.GREY, 1, Resize(antialias=True), mean=MEAN[:1], std=STD[:1]),
    "grey letterbox": Preprocessing(
        Channels.GREY, 3, Resize(LETTERBOX, None, BICUBIC, antialias=True, fill=(9, 114, 200))
    ),
    "nearest": Preprocessing(resize=Resize(interpolation=NEAREST), mean=MEAN, std=STD),
    "nearest of a part": Preprocessing(resize=Resize(SHORTEST, (97, 97), NEAREST)),
    "of a part": Preprocessing(
        resize=Resize(SHORTEST, EDGE), arithmetic=Arithmetic.DIVIDE, mean=MEAN, std=STD
    ),
    "bicubic": Preprocessing(resize=Resize(interpolation=BICUBIC), mean=MEAN, std=STD),
    "bicubic of a part": Preprocessing(
        Channels.BGR,
        resize=Resize(SHORTEST, EDGE, BICUBIC),
        arithmetic=Arithmetic.MULTIPLY_DOUBLE,
        mean=MEAN,
        std=STD,
    ),
    "letterbox": Preprocessing(
        resize=Resize(LETTERBOX, (40, 70), fill=(114, 114, 114)),
        arithmetic=Arithmetic.FUSED,
        mean=MEAN,
        std=STD,
    ),
}


def pixels(height: int, width: int) -> Any:
    """Noise, so that every wrong neighbour shows."""
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_python(image: Any, pipeline: ImagePipeline) -> Any:
    into = np.full((*pipeline.size, pipeline.preprocessing.depth), np.nan, np.float32)
    prepare(image, pipeline, None, into)
    return into


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
def test_the_graph_gives_the_bits_of_the_python_pipeline(steps: Preprocessing) -> None:
    import tensorflow as tf
    from mlserve_tfserving.prepare import geometry_in_graph, prepared

    offset = 0.0 if steps.arithmetic is Arithmetic.FUSED else OFFSET
    pipeline = ImagePipeline(*SIZE, 1 / 255, offset, Activation.SOFTMAX, 3, preprocessing=steps)
    graph = tf.function(
        lambda image: prepared(image, geometry_in_graph(image, pipeline), pipeline),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
        autograph=False,
    )
    for shape in SHAPES:
        image = pixels(*shape)
        found = graph(image).numpy()
        np.testing.assert_array_equal(found, in_python(image, pipeline), err_msg=str(shape))


@pytest.mark.parametrize("interpolation", [BILINEAR, BICUBIC, NEAREST])
def test_a_part_of_any_size_is_pillows(interpolation: Interpolation) -> None:
    import tensorflow as tf
    from mlserve_tfserving.pillow_resizing import pillow_resized

    def part(image: Any, numbers: Any) -> Any:
        height, width, top, rows, left, columns = tf.unstack(numbers)
        geometry = Geometry(height, width, Span(top, rows, 0), Span(left, columns, 0))
        return pillow_resized(image, geometry, interpolation)

    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([6], tf.int32)]
    graph = tf.function(part, input_signature=signature, autograph=False)
    how = Image.Resampling[interpolation.name]
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width, high, wide = (int(side) for side in rng.integers(1, 300, 4))
        top, left = int(rng.integers(high)), int(rng.integers(wide))
        rows, columns = int(rng.integers(1, high - top + 1)), int(rng.integers(1, wide - left + 1))
        image = pixels(height, width)
        # The width first, as Pillow up to 12: its version 13 sometimes begins with the height.
        whole = Image.fromarray(image).resize((wide, height), how).resize((wide, high), how)
        expected = np.asarray(whole)[top : top + rows, left : left + columns]
        found = graph(image, [high, wide, top, rows, left, columns]).numpy()
        np.testing.assert_array_equal(found, expected)


def test_a_strip_that_would_become_too_large_is_refused_in_the_same_words(
    make_classifier: Callable[..., Classifier],
) -> None:
    import tensorflow as tf
    from mlserve_tfserving.graph import ImageClassifier
    from mlserve_tfserving.runner import refusal

    strip = pixels(2, 100)
    steps = Preprocessing(resize=Resize(SHORTEST, (64, 64), antialias=True))
    model = make_classifier(preprocessing=steps, max_pixels=100_000)
    with pytest.raises(Refused, match="100x2 becomes 3200x64") as in_python_too:
        prepare(strip, model.pipeline, None, np.empty((8, 8, 3), np.float32))
    files = [saved(Image.fromarray(image), "PNG") for image in (pixels(64, 80), strip)]

    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        ImageClassifier(model).pixels(tf.constant(files))

    error = refusal(refused.value, 1, 2)
    assert (type(error), error.message) == (
        InputTooLarge,
        problem_error(1, 2, in_python_too.value.text).message,
    )


def test_an_exported_model_has_it_in_its_graph(
    make_classifier: Callable[..., Classifier], export_to: Callable[..., Artifact], tmp_path: Path
) -> None:
    steps = replace(CASES["cut more"], mean=MEAN, std=STD)
    artifact = export_to(make_classifier(preprocessing=steps), tmp_path)
    backend = TFServingBackend()
    stages = backend.stages(artifact, LoadOptions())
    python = ImageSteps(artifact.manifest.pipeline, lambda pixels, _: pixels.mean(axis=(1, 2)))
    files = [image.data for image in ODD.values()]

    for data in files:
        np.testing.assert_array_equal(stages.resized(data), python.resized(data))
    runner = backend.load(artifact, LoadOptions())
    found = runner.run("ranking", {"image": np.array(files, dtype=object)})
    scores = np.sort(python.batch_scores(files, None), axis=1)[:, ::-1]
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-6)
