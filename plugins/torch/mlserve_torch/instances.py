"""The instances of a model: each runs one call at a time, and all share the weights and threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, LifoQueue
from threading import local

import torch

from mlserve.backend import RUN_IT_OUTSIDE, Batching
from mlserve.deadline import Deadline
from mlserve.errors import (
    InferenceFailed,
    InvalidInput,
    MlserveError,
    Overloaded,
    Unavailable,
    bounded,
)
from mlserve.load_options import LoadOptions
from mlserve.system import usable_cpus
from mlserve_torch.graphs import Capture, GraphedInstance, capture_sizes
from mlserve_torch.program import Program

_log = logging.getLogger(__name__)
Tensors = Sequence[torch.Tensor]
_NO_MEMORY = ("can't allocate memory", "not enough memory")
"""What the allocator of the CPU says, whose error has no class of its own."""


class EagerInstance:
    """Runs a program operation by operation, on the CPU."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, tensors: Tensors) -> list[torch.Tensor]:
        """Return the outputs, on the CPU."""
        with torch.inference_mode():
            return self._program.call(tensors)


class _Asked(local):
    """How many threads the calling thread has asked for."""

    threads = 0


class Instances:
    """`options.instances` instances of a program; a call waits until one is free.

    Without that option, calls that run operation by operation run side by side, each on as many
    threads as `limit_threads` has allowed it: PyTorch keeps that number for each calling thread.
    A program that keeps state has one instance all the same, as its calls must not overlap.
    `is_padded` says that a row's answer does not depend on the rows beside it, so that a long batch
    may be cut and a short one filled up. `capture` makes what captures the graphs of an instance;
    None runs each call operation by operation.
    """

    def __init__(
        self,
        program: Program,
        device: torch.device,
        options: LoadOptions,
        *,
        is_padded: bool,
        capture: Callable[[], Capture] | None = None,
    ) -> None:
        count = 1 if program.keeps_state else options.instances or 1
        self._threads = max(1, (options.threads or usable_cpus()) // count)
        torch.set_num_threads(self._threads)
        self._program = program
        self._is_padded = is_padded
        self._sizes = capture_sizes(program) if capture else ()
        self.all = [
            EagerInstance(program)
            if capture is None
            else GraphedInstance(program, device, self._sizes, capture(), is_padded=is_padded)
            for _ in range(count)
        ]
        self._free: LifoQueue[EagerInstance | GraphedInstance] | None = None
        if options.instances is not None or capture is not None or program.keeps_state:
            self._free = LifoQueue()
            for instance in self.all:
                self._free.put(instance)
        self.device = device
        self._asked = _Asked()
        self._lost = ""
        _log.info("PyTorch %s runs the model on %s", torch.__version__, device)
        if program.keeps_state:
            _log.warning("the model writes to tensors of its own: its calls run one at a time")

    @property
    def batching(self) -> Batching | None:
        """How the runtime likes requests to be run together; None to leave it to the server."""
        if not self._sizes or not self._is_padded or self._sizes[-1] == 1:
            return None
        return Batching(most=self._sizes[-1], at_once=len(self.all) + 1)

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._asked.threads = threads

    def run(self, tensors: Tensors, deadline: Deadline | None = None) -> list[torch.Tensor]:
        """Return the outputs, on the CPU, in the program's order.

        Raises InvalidInput for input that the program refuses, DeadlineExceeded when no instance
        gets free in time, Overloaded when memory runs out, Unavailable once the GPU has failed, and
        InferenceFailed.
        """
        instance = self._take(deadline)
        threads = self._threads
        if self._free is None:
            threads = min(threads, self._asked.threads or threads)
        if torch.get_num_threads() != threads:  # it is the calling thread's, of all models
            torch.set_num_threads(threads)
        try:
            with self.explaining():
                parts = [instance.run(part) for part in self._parts(tensors)]
        finally:
            if self._free is not None:
                self._free.put(instance)
        return (
            parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]
        )

    def spans(self, rows: int) -> list[range]:
        """Return the pieces in which a batch is run: one if its rows may not be cut."""
        assert self._program.rows is not None
        may_cut = self._is_padded or self._program.rows[1] == 1
        most = self._most() if may_cut else rows
        return [range(at, min(at + most, rows)) for at in range(0, rows, most)]

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Raise the errors of PyTorch within the block as `run` does."""
        try:
            yield
        except Exception as error:
            raise self._explained(error) from error

    def warm_up(self, tensors: Tensors) -> None:
        """Run each instance once. Raises what `run` raises."""
        with self.explaining():
            for instance in self.all:
                instance.run(tensors)

    def close(self) -> None:
        """Free the memory."""
        self.all = []
        self._free = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _parts(self, tensors: Tensors) -> list[Tensors]:
        """Return the batch in pieces that the program takes."""
        if self._program.rows is None:
            return [tensors]
        if not len(tensors[0]):
            raise InvalidInput("the batch has no rows", hint="send at least one row")
        spans = self.spans(len(tensors[0]))
        return [[tensor[span.start : span.stop] for tensor in tensors] for span in spans]

    def _most(self) -> int:
        """Return the most rows that the program takes, or its largest graph."""
        assert self._program.rows is not None
        most = self._program.rows[1]
        return min(most, self._sizes[-1]) if self._sizes else most

    def _take(self, deadline: Deadline | None) -> EagerInstance | GraphedInstance:
        if self._lost:
            raise Unavailable(self._lost, hint="restart the server: mlserve down, then mlserve up")
        if self._free is None:
            return self.all[0]
        seconds = None if deadline is None else max(0.0, deadline.remaining())
        try:
            return self._free.get(timeout=seconds)
        except Empty:
            if deadline is None:
                raise
            raise deadline.exceeded("waiting for an instance of the model") from None

    def _explained(self, error: Exception) -> MlserveError:
        text = bounded(str(error)) or type(error).__name__
        if isinstance(error, MlserveError):
            return error
        if isinstance(error, AssertionError | IndexError):
            return InvalidInput(
                f"the model refuses the input: {text.removeprefix('Guard failed: ')}",
                hint="compare the input with the signature: mlserve metadata",
            )
        no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if no_memory or any(words in text for words in _NO_MEMORY):
            return Overloaded(
                f"not enough memory to run the request: {text}",
                hint="send smaller requests, or give the server more memory",
            )
        if isinstance(error, torch.AcceleratorError):
            self._lost = f"the GPU has failed, and this process cannot use it any more: {text}"
            _log.error("%s", self._lost)
        return InferenceFailed(f"PyTorch failed: {text}", hint=RUN_IT_OUTSIDE)
