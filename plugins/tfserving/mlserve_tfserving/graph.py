"""The image pipeline as a TensorFlow graph: file bytes in, labels out.

Everything that can be told about an image before its decoder runs is checked in the graph, and the
message names the image's index, so that TensorFlow Serving says it as clearly as mlserve does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlserve.images import (
    BASE64_OF_IMAGE,
    INFINITE,
    JPEG_MAGIC,
    NAN,
    PNG_MAGIC,
    PNG_OF_APPLE,
    Problem,
    problem_text,
)
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.sources import Classifier
from mlserve_tfserving.graph_cost import Cost, cost_in_file, excess_in_graph, no_cost

_OVER = (Problem.TOO_LARGE, Problem.TOO_COSTLY)
_IMAGES = tf.TensorSpec([None], tf.string, name="image")


class ImageClassifier(tf.Module):  # type: ignore[misc]  # TensorFlow is not typed
    """The exported module: the model with its pipeline around it.

    `serving_default`, `top_k` and `ranking` are its signatures. `decoded` (bytes of one image ->
    uint8[height, width, 3] of its own size), `pixels` (bytes[N] -> float32[N, height, width, 3],
    the model's input) and `scores` (bytes[N] -> float32[N, classes]) are its steps: plain functions
    of the loaded SavedModel, which find a bad image and compare two runtimes.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__(name="image_classifier")
        self.forward = model.forward
        self._pipeline = model.pipeline
        self._labels = model.pipeline.full_labels(model.labels)
        self.decoded = tf.function(
            self._decoded, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
        )
        self.pixels = _function(self._pixels)
        self.scores = _function(self._scores)
        self.serving_default = _function(self._label)
        self.top_k = _function(self._top_k)
        self.ranking = _function(self._ranking)

    def _decoded(self, image: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            return decoded_image(tf.constant(0), image, self._pipeline)

    def _pixels(self, image: tf.Tensor) -> tf.Tensor:
        size = (self._pipeline.height, self._pipeline.width, 3)
        with tf.device("/CPU:0"):
            return tf.map_fn(
                lambda pair: image_pixels(pair[0], pair[1], self._pipeline),
                (tf.range(tf.size(image)), image),
                fn_output_signature=tf.TensorSpec(size, tf.float32),
            )

    def _scores(self, image: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(self.forward(self.pixels(image)), tf.float32)
        return finite(_activate(outputs, self._pipeline), self._pipeline.scored_classes)

    def _label(self, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        best = tf.argmax(self.scores(image), axis=1)
        return {"output_0": tf.gather(tf.constant(self._labels), best)}

    def _top_k(self, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return self._best(image, min(self._pipeline.top_k, self._pipeline.scored_classes))

    def _ranking(self, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return self._best(image, self._pipeline.scored_classes)

    def _best(self, image: tf.Tensor, count: int) -> Mapping[str, tf.Tensor]:
        scores, indices = tf.math.top_k(self.scores(image), k=count)
        labels = tf.gather(tf.constant(self._labels), indices)
        return {"labels": labels, "scores": scores, "indices": indices}


def _function(steps: Any) -> Any:
    # AutoGraph would rewrite the Python control flow, of which there is none on tensors here.
    return tf.function(steps, input_signature=[_IMAGES], autograph=False)


def _activate(outputs: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    columns = 1 if pipeline.activation.is_binary else pipeline.classes
    outputs = tf.ensure_shape(outputs, [None, columns])
    match pipeline.activation:
        case Activation.SOFTMAX:
            return tf.nn.softmax(outputs)
        case Activation.IDENTITY:
            return outputs
        case Activation.SIGMOID:
            return tf.concat([tf.sigmoid(-outputs), tf.sigmoid(outputs)], axis=1)
        case Activation.COMPLEMENT:
            return tf.concat([1 - outputs, outputs], axis=1)


def finite(scores: tf.Tensor, classes: int) -> tf.Tensor:
    """The scores; fails with a message that names the image whose scores are not all finite."""
    is_bad = tf.logical_not(tf.math.is_finite(scores))

    def refused() -> tf.Tensor:
        index = tf.argmax(tf.cast(tf.reduce_any(is_bad, axis=1), tf.int32))
        bad = tf.strings.as_string(tf.reduce_sum(tf.cast(is_bad[index], tf.int32)))
        has_nan = tf.reduce_any(tf.math.is_nan(scores[index]))
        text = problem_text("", classes, "")
        kind = tf.where(has_nan, NAN, INFINITE)
        message = tf.strings.join(["image ", tf.strings.as_string(index), ": ", bad, text, kind])
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=[message])]):
            return tf.identity(scores)

    return tf.cond(tf.reduce_any(is_bad), refused, lambda: tf.identity(scores))


def image_pixels(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """float32[height, width, 3] of one image: int32 `index` in its batch, string `value`."""
    decoded = decoded_image(index, value, pipeline)
    resized = tf.raw_ops.ResizeBilinear(
        images=decoded[tf.newaxis],
        size=[pipeline.height, pipeline.width],
        half_pixel_centers=True,
    )
    return resized[0] * pipeline.scale + pipeline.offset


def decoded_image(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """uint8[height, width, 3] of one image, in its own size: what the decoder makes of it."""
    data = _checked(index, value, pipeline)
    # Despite its name this op decodes PNG too (16 bits are cut to the upper 8) and repeats grey,
    # converts CMYK and drops alpha to reach 3 channels.
    return tf.io.decode_jpeg(data, channels=3, dct_method=pipeline.jpeg_dct)


def _checked(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """The file's bytes, once they are known to be an image of an allowed size."""
    data, problem = tf.cond(
        _is_image(value), lambda: (value, _code(Problem.NONE)), lambda: _from_base64(value)
    )
    cost = tf.cond(tf.equal(problem, Problem.NONE.code), lambda: cost_in_file(data), no_cost)
    over, detail = excess_in_graph(Cost(*cost), pipeline.limits)
    problem = tf.where(tf.equal(problem, Problem.NONE.code), over, problem)
    problem = tf.where(tf.reduce_any(cost[0] <= 0), _code(Problem.NO_SIZE), problem)
    problem = tf.where(_starts_with(data, PNG_OF_APPLE), _code(Problem.OF_APPLE), problem)
    return tf.cond(
        tf.equal(problem, Problem.NONE.code),
        lambda: data,
        lambda: _refused(index, problem, detail),
    )


def _refused(index: tf.Tensor, problem: tf.Tensor, detail: tf.Tensor) -> tf.Tensor:
    """Never a value: fails with a message that names the image and what is wrong with it."""
    text = tf.gather(tf.constant([p.text for p in Problem]), problem)
    is_over = tf.reduce_any([tf.equal(problem, p.code) for p in _OVER])
    message = tf.strings.join(
        ["image ", tf.strings.as_string(index), ": ", text, tf.where(is_over, detail, "")]
    )
    with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=[message])]):
        return tf.constant(b"")


def _is_image(data: tf.Tensor) -> tf.Tensor:
    return tf.logical_or(_starts_with(data, JPEG_MAGIC), _starts_with(data, PNG_MAGIC))


def _starts_with(data: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(data, 0, len(magic)), magic)


def _from_base64(value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The bytes that the text stands for, and the Problem code; empty bytes for any problem."""
    text = tf.strings.regex_replace(value, r"[ \t\r\n\f\v]", "")
    body = tf.strings.regex_replace(text, r"=$|==$", "")
    length, padding = tf.strings.length(body), tf.strings.length(text) - tf.strings.length(body)
    is_base64 = tf.reduce_all(
        [
            tf.strings.regex_full_match(body, r"[A-Za-z0-9+/_-]+"),
            tf.not_equal(length % 4, 1),
            tf.logical_or(tf.equal(padding, 0), tf.equal((length + padding) % 4, 0)),
        ]
    )
    data = tf.cond(is_base64, lambda: _decoded_base64(body), lambda: tf.constant(b""))
    problem = tf.where(_is_image(data), _code(Problem.NONE), _code(Problem.NOT_AN_IMAGE))
    was_meant = tf.strings.regex_full_match(value, BASE64_OF_IMAGE)
    is_wrong = tf.logical_and(was_meant, tf.logical_not(is_base64))
    problem = tf.where(is_wrong, _code(Problem.BAD_BASE64), problem)
    problem = tf.where(tf.equal(tf.strings.length(value), 0), _code(Problem.EMPTY), problem)
    return data, problem


def _decoded_base64(body: tf.Tensor) -> tf.Tensor:
    # TensorFlow's op knows the web-safe alphabet only.
    web_safe = tf.strings.regex_replace(tf.strings.regex_replace(body, r"\+", "-"), "/", "_")
    return tf.io.decode_base64(web_safe)


def _code(problem: Problem) -> tf.Tensor:
    return tf.constant(problem.code, tf.int32)
