"""Run any SavedModel with TensorFlow in this process.

The graph puts the words of `mlserve.images` into the message of a failed check, so that any server
of the SavedModel reports them; the runner parses them to choose the error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from mlserve.artifact import EXPORT_AGAIN, Artifact
from mlserve.backend import RUN_IT_OUTSIDE, Runner, RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, ModelLoadFailed, Overloaded
from mlserve.images import SCORE_PROBLEM, Problem, problem_error, scores_failed
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.system import usable_cpus
from mlserve.tensors import Signature
from mlserve_tfserving.loading import LoadedModel, load_model, plain
from mlserve_tfserving.warmup import read_requests

if TYPE_CHECKING:
    from mlserve.backend import Tensors


_IN_GRAPH = re.compile(r"assertion failed: \[image (\d+): ([^\]]+)\]")


def found_in_graph(message: str) -> tuple[int, str] | None:
    """Return the index of the refused image and its problem, from TensorFlow's message."""
    match = _IN_GRAPH.search(message)
    return None if match is None else (int(match[1]), match[2])


def bad_scores(error: Any, batch: int) -> InferenceFailed | None:
    """Return the error if the graph found scores that are not finite, else None."""
    found = found_in_graph(str(error.message))
    if found is None or SCORE_PROBLEM.fullmatch(found[1]) is None:
        return None
    return scores_failed(found[0], batch, found[1])


_log = logging.getLogger(__name__)


def load_runner(artifact: Artifact, options: LoadOptions) -> Runner:
    """Load the SavedModel in `artifact.path` and run its own warm-up requests.

    Raises ModelLoadFailed when TensorFlow cannot read it, when it does not match its manifest, or
    when a warm-up request fails.
    """
    threads = options.threads or usable_cpus()
    set_threads(threads)
    model = load_model(artifact.path, threads, allow_unsafe_ops=options.allow_unsafe_ops)
    manifest = artifact.manifest
    if manifest is not None:
        _check_manifest(artifact, model.signatures)
    if manifest is None or manifest.pipeline is None:
        runner = TensorFlowRunner(model)
    else:
        runner = ImageClassifierRunner(model)
    _warm_up(runner, artifact)
    return runner


class TensorFlowRunner:
    """A loaded SavedModel: its signatures, run on CPU or GPU as TensorFlow places them.

    The calls of one that writes to its variables run one at a time: between a write of one and its
    next read, another would write there too, and each would get a part of the other's answer.
    """

    judges_shapes = True

    def __init__(self, model: LoadedModel) -> None:
        self._model: LoadedModel | None = model
        self._functions = model.functions
        self._signatures = model.signatures
        self._definitions = model.definitions
        self._defaults = model.defaults
        self._turns: Lock | None = None
        if model.keeps_state:
            self._turns = Lock()
            _log.warning("the model writes to variables of its own: its calls run one at a time")

    @property
    def keeps_state(self) -> bool:
        """Whether the model writes to its variables."""
        return self._turns is not None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._signatures

    @property
    def definitions(self) -> Mapping[str, bytes]:
        return self._definitions

    @property
    def runs_on(self) -> RunsOn:
        """The version of TensorFlow, the device that it prefers, and how it multiplies there.

        On a GPU that is TF32 unless it was switched off: 10 bits of mantissa instead of 23.
        """
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        is_tf32 = on_gpu and tf.config.experimental.tensor_float_32_execution_enabled()
        precision = "tf32" if is_tf32 else Precision.FP32.value
        return RunsOn(f"TensorFlow {tf.__version__}", precision, "GPU" if on_gpu else "CPU")

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs.

        An omitted input gets the SavedModel's default. TensorFlow cannot interrupt a run: it
        continues after the deadline. Raises InvalidInput, Overloaded and InferenceFailed, and
        DeadlineExceeded for a call that waits too long for the one before it.
        """
        given = {**self._defaults.get(signature, {}), **inputs}
        try:
            with self._turn(deadline):
                outputs = self._functions[signature](given)
                if self._turns is None:
                    return outputs
                # One may be the variable's own memory, which the next call writes to.
                return {name: array.copy() for name, array in outputs.items()}
        except (tf.errors.OpError, TypeError, ValueError, MemoryError) as error:
            raise self._explained(inputs, error) from error

    def close(self) -> None:
        self._functions = {}
        self._model = None

    @contextmanager
    def _turn(self, deadline: Deadline | None) -> Iterator[None]:
        """Hold the model for the block, if it runs one call at a time. Raises DeadlineExceeded."""
        if self._turns is None:
            yield
            return
        seconds = -1 if deadline is None else max(0.0, deadline.remaining())
        if not self._turns.acquire(timeout=seconds):
            assert deadline is not None
            raise deadline.exceeded("waiting for the model, which runs one call at a time")
        try:
            yield
        finally:
            self._turns.release()

    def _explained(self, inputs: Tensors, error: Exception) -> MlserveError:
        message = plain(str(getattr(error, "message", error)))
        if isinstance(error, tf.errors.InvalidArgumentError | TypeError | ValueError):
            return InvalidInput(
                f"the model refuses the input: {message}",
                hint="compare the input with the signature: mlserve metadata",
            )
        if isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
            return Overloaded(
                f"not enough memory to run the request: {message}",
                hint="send smaller requests, or give the server more memory",
            )
        return InferenceFailed(f"TensorFlow failed: {message}", hint=RUN_IT_OUTSIDE)


class ImageClassifierRunner(TensorFlowRunner):
    """A SavedModel exported by mlserve: its errors name the image and the problem."""

    judges_shapes = False

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self._pixels = model.owner.pixels

    def close(self) -> None:
        super().close()
        self._pixels = None

    def _explained(self, inputs: Tensors, error: Exception) -> MlserveError:
        refused: MlserveError | None = None
        if isinstance(error, tf.errors.InvalidArgumentError):
            images = inputs["image"]
            refused = bad_scores(error, len(images)) or self._first_refusal(images)
        return refused or super()._explained(inputs, error)

    def _first_refusal(self, images: Any) -> MlserveError | None:
        """Return the error of the first image that the pipeline refuses, each tried alone.

        A decoder's own failure does not say which image it was, and if several parallel checks
        fail, any of them can be reported; so the images are decoded again, in order.
        """
        for index, image in enumerate(images):
            try:
                self._pixels(tf.constant([image], tf.string))
            except tf.errors.InvalidArgumentError as error:
                return refusal(error, index, len(images))
        return None


def refusal(error: Any, index: int, batch: int) -> InvalidInput:
    """Convert TensorFlow's error for image `index` of a batch of that size."""
    found = found_in_graph(str(error.message))
    return problem_error(index, batch, Problem.DAMAGED.text if found is None else found[1])


def set_threads(threads: int) -> None:
    """Set the threads of TensorFlow's pools; only the first call in a process can."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow creates its thread pools once per process, on first use.
        _log.info("TensorFlow's threads in this process were set before, not to %d", threads)


def _check_manifest(artifact: Artifact, signatures: Mapping[str, Signature]) -> None:
    if artifact.manifest is None:
        return
    try:
        artifact.labels()
    except MlserveError as error:
        raise ModelLoadFailed(error.message, hint=error.hint) from error
    promised = {signature.name: signature for signature in artifact.manifest.signatures}
    if promised != dict(signatures):
        raise ModelLoadFailed(
            f"{artifact.path} holds a different model than its manifest says", hint=EXPORT_AGAIN
        )


def _warm_up(runner: TensorFlowRunner, artifact: Artifact) -> None:
    try:
        for signature, inputs in read_requests(artifact.path):
            if signature in runner.signatures:
                runner.run(signature, inputs)
    except (MlserveError, tf.errors.OpError, ValueError) as error:
        raise ModelLoadFailed(
            f"the warm-up requests of {artifact.path} fail: {plain(str(error))}", hint=EXPORT_AGAIN
        ) from error
