"""The image pipeline as a TensorFlow graph: file bytes in, labels out.

Everything that can be known about an image before its decoder runs is checked in the graph, and the
message names the image's index, so TensorFlow Serving's errors are as clear as mlserve's.
TensorFlow's decoders cannot be interrupted, so the graph also computes the cost of an image: a real
TensorFlow Serving has no other check before it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from mlserve.images import (
    BASE64_OF_IMAGE,
    COEFFICIENT_BYTES,
    INFINITE,
    JPEG_MAGIC,
    MAX_PACKED_TEXTS,
    NAN,
    PACKED_TEXTS,
    PNG_HEADER_BYTES,
    PNG_LARGEST_DEPTH,
    PNG_MAGIC,
    PNG_OF_APPLE,
    PNG_SAMPLES,
    PNG_START,
    PROGRESSIVE,
    RGB,
    SCAN,
    ImageLimits,
    Problem,
    score_problem_text,
)
from mlserve.pipeline import Activation, ImagePipeline
from mlserve.preprocessing import VERSION_1, Geometry
from mlserve.sources import Classifier
from mlserve_tfserving.prepare import geometry_in_graph, prepared

_MOST_PIECES = 1000
"""The scans or text chunks counted separately; a file with more is over any limit on them."""


class Cost(NamedTuple):
    """As `mlserve.images.ImageCost`: tensors of int64; `size` is (height, width)."""

    size: tf.Tensor
    samples: tf.Tensor
    scans: tf.Tensor
    packed_texts: tf.Tensor


def no_cost() -> Cost:
    """Return the cost of anything that is not an image: it is within all limits."""
    return Cost(_numbers(1, 1), *tf.unstack(_numbers(0, 0, 0)))


def cost_in_file(data: tf.Tensor) -> Cost:
    """Return the cost of a JPEG or PNG file; its size is zeros without a complete header."""
    is_jpeg = tf.equal(tf.strings.substr(data, 0, len(JPEG_MAGIC)), JPEG_MAGIC)
    return Cost(*tf.cond(is_jpeg, lambda: _cost_of_jpeg(data), lambda: _cost_of_png(data)))


def excess_in_graph(cost: Cost, limits: ImageLimits) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the Problem's code (NONE for an image within all limits) and its detail."""
    pixels = tf.reduce_prod(cost.size)
    decode_bytes = RGB * pixels + cost.samples
    size = _joined(cost.size[1], "x", cost.size[0])
    large, costly = Problem.TOO_LARGE, Problem.TOO_COSTLY
    # Later lines override earlier ones: the first check of `ImageCost.excess` is the last here.
    lines = (
        (
            decode_bytes > limits.max_decode_bytes,
            costly,
            _joined(decode_bytes, f" bytes, at most {limits.max_decode_bytes}"),
        ),
        (
            cost.packed_texts > MAX_PACKED_TEXTS,
            costly,
            f"more than {MAX_PACKED_TEXTS} packed texts",
        ),
        (cost.scans > limits.max_scans, costly, f"more than {limits.max_scans} scans"),
        (pixels > limits.max_pixels, large, _joined(size, f", at most {limits.max_pixels} pixels")),
        (
            tf.reduce_max(cost.size) > limits.max_side,
            large,
            _joined(size, f", at most {limits.max_side} pixels on each side"),
        ),
    )
    problem, detail = tf.constant(Problem.NONE.code, tf.int32), tf.constant("")
    for is_over, kind, text in lines:
        problem = tf.where(is_over, tf.constant(kind.code, tf.int32), problem)
        detail = tf.where(is_over, _joined(" (", text, ")"), detail)
    return problem, detail


def _cost_of_jpeg(data: tf.Tensor) -> Cost:
    shape = tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)
    size, components = shape[:2], shape[2]
    scans = _split(data, SCAN)
    parts = tf.io.decode_raw(
        tf.strings.substr(tf.strings.join([scans[1:], b"\xff\xff"]), 1, 1), tf.uint8
    )
    is_in_parts = tf.reduce_any(tf.cast(parts, tf.int64) < components)
    is_progressive = tf.reduce_any([tf.size(_split(data, kind)) > 1 for kind in PROGRESSIVE])
    held = COEFFICIENT_BYTES * components * tf.reduce_prod(size)
    is_held = tf.logical_or(is_in_parts, is_progressive)
    samples = tf.where(is_held, held, tf.constant(0, tf.int64))
    return Cost(size, samples, _count(scans), tf.constant(0, tf.int64))


def _cost_of_png(data: tf.Tensor) -> Cost:
    def read() -> Cost:
        numbers = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)
        size = tf.reverse(tf.cast(tf.ensure_shape(numbers, [2]), tf.int64), [0])
        kind = tf.strings.substr(tf.strings.join([data, b"\0\0"]), PNG_HEADER_BYTES, 2)
        depth, colour = tf.unstack(tf.ensure_shape(tf.io.decode_raw(kind, tf.uint8), [2]))
        depth = tf.minimum(tf.cast(depth, tf.int64), PNG_LARGEST_DEPTH)
        colour = tf.minimum(tf.cast(colour, tf.int32), len(PNG_SAMPLES) - 1)
        bits = tf.gather(_numbers(*PNG_SAMPLES), colour) * depth
        texts = tf.add_n([_count(_split(data, kind)) for kind in PACKED_TEXTS])
        return Cost(size, tf.reduce_prod(size) * bits // 8, tf.constant(0, tf.int64), texts)

    is_whole = tf.strings.length(data) >= PNG_HEADER_BYTES
    start = tf.strings.substr(data, 0, len(PNG_START))
    has_header = tf.logical_and(is_whole, tf.equal(start, PNG_START))
    return Cost(*tf.cond(has_header, read, lambda: no_cost()._replace(size=_numbers(0, 0))))


def _split(data: tf.Tensor, separator: bytes) -> tf.Tensor:
    """Split the file at these bytes; the last part is all the rest."""
    parts: tf.Tensor = tf.raw_ops.StringSplitV2(
        input=[data], sep=separator, maxsplit=_MOST_PIECES
    ).values
    return parts


def _count(parts: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(parts), tf.int64) - 1


def _joined(*parts: Any) -> tf.Tensor:
    """Concatenate the texts and numbers."""
    return tf.strings.join(
        [
            tf.strings.as_string(part)
            if tf.is_tensor(part) and part.dtype != tf.string
            else tf.convert_to_tensor(part)
            for part in parts
        ]
    )


def _numbers(*values: int) -> tf.Tensor:
    return tf.constant(values, tf.int64)


_OVER = (Problem.TOO_LARGE, Problem.TOO_COSTLY)
_IMAGES = tf.TensorSpec([None], tf.string, name="image")


class ImageClassifier(tf.Module):  # type: ignore[misc]  # TensorFlow is not typed
    """The exported module: the model with its pipeline around it.

    `serving_default`, `top_k` and `ranking` are its signatures. Its steps are `decoded` (bytes of
    one image -> uint8[height, width, 3] of its own size), `pixels` (bytes[N] -> float32[N, height,
    width, depth], the model's input) and `scores` (bytes[N] -> float32[N, classes]): plain
    functions of the loaded SavedModel, used to find a bad image and to compare two runtimes.
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
        size = (*self._pipeline.size, self._pipeline.preprocessing.depth)
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
    # AutoGraph would rewrite Python control flow, but none here depends on tensors.
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
    """Return the scores; fail with a message that names the image whose scores are not finite."""
    is_bad = tf.logical_not(tf.math.is_finite(scores))

    def refused() -> tf.Tensor:
        index = tf.argmax(tf.cast(tf.reduce_any(is_bad, axis=1), tf.int32))
        bad = tf.strings.as_string(tf.reduce_sum(tf.cast(is_bad[index], tf.int32)))
        has_nan = tf.reduce_any(tf.math.is_nan(scores[index]))
        text = score_problem_text("", classes, "")
        kind = tf.where(has_nan, NAN, INFINITE)
        message = tf.strings.join(["image ", tf.strings.as_string(index), ": ", bad, text, kind])
        with tf.control_dependencies([tf.raw_ops.Assert(condition=False, data=[message])]):
            return tf.identity(scores)

    return tf.cond(tf.reduce_any(is_bad), refused, lambda: tf.identity(scores))


def image_pixels(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """Return float32[height, width, depth] of one image: its int32 `index` in the batch, bytes."""
    decoded = decoded_image(index, value, pipeline)
    geometry = geometry_in_graph(decoded, pipeline)
    if pipeline.preprocessing != VERSION_1:
        decoded = _checked_size(index, decoded, geometry, pipeline)
    return prepared(decoded, geometry, pipeline)


def _checked_size(
    index: tf.Tensor, decoded: tf.Tensor, geometry: Geometry, pipeline: ImagePipeline
) -> tf.Tensor:
    """Return the image, verified not to become too large: as `excess_of_size`."""
    most = pipeline.max_pixels
    height, width = (tf.convert_to_tensor(side) for side in geometry[:2])
    size = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    before = tf.shape(decoded)
    becomes = (before[1], "x", before[0], " becomes ", width, "x", height)
    detail = _joined(" to resize (", *becomes, f", at most {most} pixels)")
    message = _joined("image ", index, ": ", Problem.TOO_LARGE.text, detail)
    with tf.control_dependencies([tf.raw_ops.Assert(condition=size <= most, data=[message])]):
        return tf.identity(decoded)


def decoded_image(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """Decode one image to uint8[height, width, 3], in its own size."""
    data = _checked(index, value, pipeline)
    # Despite its name this op decodes PNG too (16 bits are cut to the upper 8) and repeats grey,
    # converts CMYK and drops alpha to get 3 channels.
    return tf.io.decode_jpeg(data, channels=3, dct_method=pipeline.jpeg_dct)


def _checked(index: tf.Tensor, value: tf.Tensor, pipeline: ImagePipeline) -> tf.Tensor:
    """Return the file's bytes, verified to be an image of an allowed size."""
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
    """Never return a value: fail with a message that names the image and its problem."""
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
    """Decode base64 text; return its bytes and the Problem code. Any problem gives empty bytes."""
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
    # TensorFlow's op supports the web-safe alphabet only.
    web_safe = tf.strings.regex_replace(tf.strings.regex_replace(body, r"\+", "-"), "/", "_")
    return tf.io.decode_base64(web_safe)


def _code(problem: Problem) -> tf.Tensor:
    return tf.constant(problem.code, tf.int32)
