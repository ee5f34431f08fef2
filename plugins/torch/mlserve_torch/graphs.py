"""Run a program on a GPU as CUDA graphs: all its kernels are started as one.

A graph is captured for some batch sizes. Its inputs and outputs have fixed places, which a call
fills and reads; a batch between two sizes is filled up to the next. Each instance has a stream and
pinned memory of its own, so that copies and kernels of several instances overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from mlserve.differences import different_output
from mlserve.errors import reason_of
from mlserve.probe import made_up_inputs
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve_torch.program import Program, to_numpy, to_torch

_log = logging.getLogger(__name__)
Tensors = Sequence[torch.Tensor]
_SIZES = (1, 2, 4, 8, 16, 24, 32)
_WARM_RUNS = 3
"""Runs before the capture, in which libraries choose their kernels and take their memory."""


@dataclass(frozen=True)
class Replay:
    """A captured run: fill `inputs`, call `play`, read `outputs`; all are on the device."""

    inputs: Tensors
    outputs: Tensors
    play: Callable[[], None]


class Capture(Protocol):
    """Captures runs of a program on one stream of a device."""

    def on_stream(self) -> AbstractContextManager[Any]:
        """Run what is inside the block on the stream."""

    def wait(self) -> None:
        """Return when the stream has done all its work."""

    def host_memory(self, like: torch.Tensor) -> torch.Tensor:
        """Return memory of the CPU of that shape and type, which the device reads by itself."""

    def capture(self, call: Callable[[Tensors], list[torch.Tensor]], inputs: Tensors) -> Replay:
        """Capture `call(inputs)`. Raises RuntimeError if the program does what a graph cannot."""


class CudaCapture:
    """CUDA graphs, and a CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def on_stream(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def wait(self) -> None:
        self._stream.synchronize()

    def host_memory(self, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def capture(self, call: Callable[[Tensors], list[torch.Tensor]], inputs: Tensors) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Another version of the model may be running on other threads meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = call(inputs)
        return Replay(inputs, outputs, graph.replay)


def capture_sizes(program: Program) -> tuple[int, ...]:
    """Return the batch sizes to capture; none for a program with other open sizes."""
    specs = program.inputs
    if program.rows is None or any(None in (spec.shape or ())[1:] for spec in specs):
        return ()
    least, most = program.rows
    return tuple(size for size in _SIZES if least <= size <= most)


class _Places:
    """A captured run with its memory on the CPU, where a call leaves its rows and finds answers."""

    def __init__(self, replay: Replay, capture: Capture) -> None:
        self._replay = replay
        self._capture = capture
        self._got = [capture.host_memory(tensor) for tensor in replay.outputs]

    @cached_property
    def _sent(self) -> list[torch.Tensor]:
        """Memory for inputs that come from the CPU: images never do, and theirs is large."""
        return [self._capture.host_memory(tensor) for tensor in self._replay.inputs]

    def run(self, tensors: Tensors) -> list[torch.Tensor]:
        rows = len(tensors[0])
        with self._capture.on_stream():
            for index, (tensor, place) in enumerate(zip(tensors, self._replay.inputs, strict=True)):
                there = self._sent[index][:rows].copy_(tensor) if tensor.is_cpu else tensor
                place[:rows].copy_(there, non_blocking=True)
            self._replay.play()
            for got, output in zip(self._got, self._replay.outputs, strict=True):
                got[:rows].copy_(output[:rows], non_blocking=True)
            self._capture.wait()
            return [got[:rows].clone() for got in self._got]


class GraphedInstance:
    """Runs a program on a device, as graphs where a batch has, or can be filled up to, their size.

    A program whose run cannot be captured, or whose graph gives another answer, is run operation by
    operation.
    """

    def __init__(
        self,
        program: Program,
        device: torch.device,
        sizes: Sequence[int],
        capture: Capture,
        *,
        is_padded: bool,
    ) -> None:
        self._program = program
        self._device = device
        self._capture = capture
        self._is_padded = is_padded
        self._places: dict[int, _Places] = {}
        with torch.inference_mode():
            for size in sizes:
                places = self._captured(size)
                if places is None:
                    return
                self._places[size] = places

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that have a graph."""
        return tuple(self._places)

    def run(self, tensors: Tensors) -> list[torch.Tensor]:
        """Return the outputs, on the CPU, for tensors on the CPU, or complete on the device."""
        with torch.inference_mode():
            places = None if self._program.rows is None else self._fitting(len(tensors[0]))
            return self._eager(tensors) if places is None else places.run(tensors)

    def _fitting(self, rows: int) -> _Places | None:
        if not self._is_padded:
            return self._places.get(rows)
        return next((self._places[size] for size in self._places if size >= rows), None)

    def _eager(self, tensors: Tensors) -> list[torch.Tensor]:
        with self._capture.on_stream():
            sent = [
                self._capture.host_memory(tensor).copy_(tensor) if tensor.is_cpu else tensor
                for tensor in tensors
            ]
            placed = [tensor.to(self._device, non_blocking=True) for tensor in sent]
            outputs = [output.to("cpu") for output in self._program.call(placed)]
        self._capture.wait()
        return outputs

    def _captured(self, size: int) -> _Places | None:
        """Return the run for that batch size; None if it cannot be captured or differs."""
        signature = Signature(DEFAULT_SIGNATURE, self._program.inputs, self._program.outputs)
        given = made_up_inputs(signature, rows=size)
        tensors = [to_torch(given[spec.name]) for spec in self._program.inputs]
        try:
            for _ in range(_WARM_RUNS):
                expected = self._eager(tensors)
            with self._capture.on_stream():
                inputs = [tensor.to(self._device) for tensor in tensors]
            self._capture.wait()
            replay = self._capture.capture(self._program.call, inputs)
            places = _Places(replay, self._capture)
            found = places.run(inputs)
        except (RuntimeError, AssertionError, IndexError) as error:
            _log.warning(
                "the model runs without a CUDA graph for a batch of %d: %s", size, reason_of(error)
            )
            return None
        names = [spec.name for spec in self._program.outputs]
        differing = different_output(_by_name(names, expected), _by_name(names, found))
        if differing is not None:
            _log.warning(
                "the model runs without a CUDA graph for a batch of %d: the output %s differs",
                size,
                differing,
            )
            return None
        return places


def _by_name(names: Sequence[str], outputs: Tensors) -> dict[str, Any]:
    return {name: to_numpy(output) for name, output in zip(names, outputs, strict=True)}
