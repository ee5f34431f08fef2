"""The steps of the image pipeline in Python, around any model: file bytes in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlserve.deadline import Deadline
from mlserve.image_pipeline.codec import Refused
from mlserve.image_pipeline.image_file import decoded_image
from mlserve.image_pipeline.jpeg import JpegDecoder, accurate, padded
from mlserve.image_pipeline.prepare import prepare
from mlserve.images import INFINITE, NAN, problem_error, score_problem_text, scores_failed
from mlserve.pipeline import Activation, ImagePipeline

Array = np.ndarray[Any, Any]


def activated(outputs: Array, activation: Activation) -> Array:
    """Return float32[N, classes]: scores that add up to 1."""
    match activation:
        case Activation.SOFTMAX:
            with np.errstate(invalid="ignore"):  # `require_finite` reports it better
                powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                result: Array = powers / powers.sum(axis=1, keepdims=True)
            return result
        case Activation.IDENTITY:
            return outputs
        case Activation.SIGMOID:
            return np.concatenate([_sigmoid(-outputs), _sigmoid(outputs)], axis=1)
        case Activation.COMPLEMENT:
            return np.concatenate([1 - outputs, outputs], axis=1)


def require_finite(scores: Array) -> Array:
    """Return the scores, float32[N, classes]. Raises InferenceFailed naming the first bad image."""
    is_finite = np.isfinite(scores)
    if is_finite.all():
        return scores
    index = int(is_finite.all(axis=1).argmin())
    row = scores[index]
    kind = NAN if np.isnan(row).any() else INFINITE
    text = score_problem_text(int((~is_finite[index]).sum()), len(row), kind)
    raise scores_failed(index, len(scores), text)


def best(scores: Array, count: int) -> tuple[Array, Array]:
    """Return the `count` highest scores, float32[N, count], and their indices, int32[N, count].

    Ties go to the lower index.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, order, axis=1), order.astype(np.int32)


def _sigmoid(values: Array) -> Array:
    small = np.exp(-np.abs(values))  # never overflows
    result: Array = np.where(values < 0, small, np.float32(1)) / (1 + small)
    return result


class Forward(Protocol):
    """A model as a function of its input, float32[N, height, width, depth]."""

    def __call__(self, pixels: Array, deadline: Deadline | None = None) -> Array:
        """Return the model's outputs, float32[N, units]; N is at least 1.

        Raises what `Runner.run` raises.
        """

    def warm_up(self, black: Array) -> None:
        """Run once on float32[1, height, width, depth], on every instance of the model."""

    def close(self) -> None:
        """Free the memory."""


@runtime_checkable
class ResizingForward(Protocol):
    """A model that resizes images itself, on its device: version 1 of the pipeline, bit for bit."""

    decoder: JpegDecoder
    """Decodes the JPEGs that it is given; it may also leave that to `of_prepared`."""

    def prepare(self, image: Array) -> Any:
        """Return what `of_prepared` needs of uint8[any height, any width, 3]."""

    def of_prepared(self, images: Sequence[Any], deadline: Deadline | None = None) -> Array:
        """Return the model's outputs, float32[N, units]; a repeated image is the same object.

        Raises what `Runner.run` raises.
        """

    def warm_up(self, black: Array) -> None:
        """Run once on float32[1, height, width, 3], on every instance of the model."""

    def close(self) -> None:
        """Free the memory."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a batch is decoded: the decoder of usual JPEGs, and how many images at the same time."""

    decoder: JpegDecoder = accurate
    threads: int = 1


DEFAULT_DECODING = Decoding()


class ImageSteps:
    """An image classifier, step by step; thread-safe if `forward` is."""

    def __init__(
        self,
        pipeline: ImagePipeline,
        forward: Forward | ResizingForward,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.pipeline = pipeline
        self._forward = forward
        # Only once: to ask whether it is one takes longer than a small step of the pipeline.
        self._resizing = forward if isinstance(forward, ResizingForward) else None
        self._of_pixels = None if isinstance(forward, ResizingForward) else forward
        self._limits = pipeline.limits
        self._decoder = decoding.decoder
        self._at_once = decoding.threads
        self._threads = None
        if decoding.threads > 1:
            self._threads = ThreadPoolExecutor(decoding.threads, thread_name_prefix="decode")

    @property
    def _shape(self) -> tuple[int, int, int]:
        """The shape of the model's input for one image."""
        return (*self.pipeline.size, self.pipeline.preprocessing.depth)

    def decoded(self, image: bytes) -> Array:
        """Return uint8[height, width, 3] in its own size; upright where EXIF is applied.

        Raises InvalidInput.
        """
        try:
            return self._decoded(image, None, self._decoder)
        except Refused as refused:
            raise problem_error(0, 1, refused.text) from refused

    def resized(self, image: bytes) -> Array:
        """Return float32[height, width, depth]: the model's input. Raises InvalidInput."""
        pixels: Array = self.pixels([image], None)[0]
        return pixels

    def scores(self, image: bytes) -> Array:
        """Return float32[classes]. Raises InvalidInput."""
        scores: Array = self.batch_scores([image], None)[0]
        return scores

    def pixels(self, images: Sequence[bytes], deadline: Deadline | None) -> Array:
        """Return the model's input, float32[N, height, width, depth].

        A repeated image is decoded once. Raises InvalidInput naming the first bad image, and
        DeadlineExceeded.
        """
        pixels = np.empty((len(images), *self._shape), np.float32)

        def fill(index: int, decoded: Array) -> None:
            prepare(decoded, self.pipeline, deadline, pixels[index])

        is_pillows = self.pipeline.preprocessing.resize.is_uint8
        decoder = padded if is_pillows and self._decoder is accurate else self._decoder
        self._decode(images, deadline, decoder, fill)
        for index in range(1, len(images)):
            if images[index] == images[index - 1]:
                pixels[index] = pixels[index - 1]
        return pixels

    def batch_scores(self, images: Sequence[bytes], deadline: Deadline | None) -> Array:
        """Return float32[N, classes], all of them finite.

        Raises what `pixels` and the model raise, and InferenceFailed for scores that are not
        finite.
        """
        if not len(images):
            return np.empty((0, self.pipeline.scored_classes), np.float32)
        if self._resizing is not None:
            outputs = self._outputs_of(self._resizing, images, deadline)
            return require_finite(activated(outputs, self.pipeline.activation))
        return self.scores_of_pixels(self.pixels(images, deadline), deadline)

    @property
    def takes_pixels(self) -> bool:
        """Whether the model takes the pixels that every backend gets, as `pixels` gives them."""
        return self._of_pixels is not None and self._decoder is accurate

    def scores_of_pixels(self, pixels: Array, deadline: Deadline | None) -> Array:
        """Return float32[N, classes] for what `pixels` returned; only if it `takes_pixels`.

        Raises what the model raises, and InferenceFailed for scores that are not finite.
        """
        if not len(pixels):
            return np.empty((0, self.pipeline.scored_classes), np.float32)
        if self._of_pixels is None:
            raise TypeError("this model resizes the images itself")
        outputs = self._of_pixels(pixels, deadline)
        return require_finite(activated(outputs, self.pipeline.activation))

    def _outputs_of(
        self, forward: ResizingForward, images: Sequence[bytes], deadline: Deadline | None
    ) -> Array:
        """Return the outputs of a model that resizes the images itself."""
        prepared: list[Any] = [None] * len(images)

        def keep(index: int, decoded: Array) -> None:
            prepared[index] = forward.prepare(decoded)

        self._decode(images, deadline, forward.decoder, keep)
        for index in range(1, len(images)):
            if images[index] == images[index - 1]:
                prepared[index] = prepared[index - 1]
        return forward.of_prepared(prepared, deadline)

    def _decode(
        self,
        images: Sequence[bytes],
        deadline: Deadline | None,
        decoder: JpegDecoder,
        use: Callable[[int, Array], None],
    ) -> None:
        """Call `use(index, decoded)` for each image that does not repeat the one before it.

        Raises InvalidInput naming the first bad image, and DeadlineExceeded.
        """
        new = [i for i, image in enumerate(images) if not i or image != images[i - 1]]

        def decode(index: int) -> None:
            if deadline is not None:
                deadline.require("decoding the images")
            try:
                use(index, self._decoded(images[index], deadline, decoder))
            except Refused as refused:
                raise problem_error(index, len(images), refused.text) from refused

        if self._threads is None or len(new) == 1:
            for index in new:
                decode(index)
        else:
            _each(decode, new, self._threads, self._at_once)

    def _decoded(self, image: bytes, deadline: Deadline | None, decoder: JpegDecoder) -> Array:
        return decoded_image(image, self._limits, self.pipeline.exif, deadline, decoder)

    def close(self) -> None:
        """Free the memory and the threads."""
        self._forward.close()
        if self._threads is not None:
            self._threads.shutdown()

    def warm_up(self) -> None:
        """Run the model once, on black. Raises what `Runner.run` raises."""
        self._forward.warm_up(np.zeros((1, *self._shape), np.float32))


def _each(
    do: Callable[[int], None], indices: Sequence[int], threads: ThreadPoolExecutor, at_once: int
) -> None:
    """Call `do` for each of the ascending indices, and raise the error of the first that fails.

    Each thread takes the next one when it is done: handing them out one by one, with a future for
    each, takes more of the interpreter's time.
    """
    left, errors = iter(indices), list[tuple[int, Exception]]()

    def work(_: int) -> None:
        for index in left:
            if any(failed < index for failed, _ in errors):
                return
            try:
                do(index)
            except Exception as error:  # noqa: BLE001 - raised below, if it is the first
                errors.append((index, error))

    for _ in threads.map(work, range(min(at_once, len(indices)))):
        """All are done."""
    if errors:
        raise min(errors, key=itemgetter(0))[1]
