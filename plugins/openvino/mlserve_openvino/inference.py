"""Run one model by many threads at the same time.

How wide a call runs is chosen for each: alone on all threads, beside others on a share of them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Semaphore, local
from typing import Any

import numpy as np
import openvino as ov
from openvino import properties
from openvino.properties import hint

from mlserve.backend import RUN_IT_OUTSIDE, RunsOn
from mlserve.deadline import Deadline
from mlserve.errors import InferenceFailed, InvalidInput, MlserveError, Overloaded
from mlserve.load_options import LoadOptions
from mlserve.precision import Precision
from mlserve.system import usable_cpus
from mlserve.watchdog import stopped_at
from mlserve_openvino.opening import CPU, VERSION, core, device_for, plain

Array = np.ndarray[Any, Any]
_log = logging.getLogger(__name__)

_HINTS = {Precision.BF16: ov.Type.bf16, Precision.FP16: ov.Type.f16}
"""What OpenVINO computes in; float32 for the others: of int8, for what is not quantised.

Without a hint it takes bfloat16 wherever the CPU has AMX, and other scores come out.
"""
_PRECISIONS = {
    ov.Type.f32: Precision.FP32,
    ov.Type.bf16: Precision.BF16,
    ov.Type.f16: Precision.FP16,
}
_STEP = 4
"""How much narrower the next width is. Each has a copy of the weights, arranged for it."""


def widths(threads: int) -> list[int]:
    """Return the widths that a call can have on so many threads: all, a quarter, ..., one."""
    found = []
    while threads > 1:
        found.append(threads)
        threads //= _STEP
    return [*found, 1]


class Inference:
    """A model compiled for calls of several widths, or for `options.instances` calls at a time.

    On the CPU it is compiled once for each width, from all threads down to one. A call runs in the
    widest that `limit_threads` allows, beside as many others as have threads. The streams of one
    width share their weights.
    """

    def __init__(self, model: ov.Model, options: LoadOptions, precision: Precision) -> None:
        """Compile the model. Raises RuntimeError, and PluginError for an unknown device."""
        self._device = device_for(options.device)
        self._threads = options.threads or usable_cpus()
        self._asked = _Asked()
        self._instances = options.instances
        if options.instances:
            chosen = [max(1, self._threads // options.instances)]
        else:
            chosen = widths(self._threads) if self._device == CPU else [self._threads]
        wanted = _HINTS.get(precision, ov.Type.f32)
        self.all = [self._compiled(model, width, wanted) for width in chosen]
        self.runs_on = self._found(model)
        self._warn(precision)

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._asked.threads = threads

    def run(self, calls: Sequence[Sequence[Array]], deadline: Deadline | None) -> list[list[Array]]:
        """Return the outputs of each call, whose inputs are in the order of the file.

        Several calls run side by side on the threads that the caller may use. Raises InvalidInput
        for input that the model rejects, DeadlineExceeded when the deadline passes (the calls are
        aborted then), Overloaded when memory runs out, and InferenceFailed.
        """
        threads = min(self._asked.threads or self._threads, self._threads)
        width = max(1, threads // len(calls))
        compiled = next((each for each in self.all if each.width <= width), self.all[-1])
        at_once = min(len(calls), max(1, threads // compiled.width))
        if self._instances:
            return compiled.run_in_turn(calls, deadline)
        return compiled.run(calls, at_once, deadline)

    def close(self) -> None:
        """Free the memory."""
        self.all = []

    def _compiled(self, model: ov.Model, width: int, precision: Any) -> Compiled:
        config: dict[Any, Any] = {hint.inference_precision(): precision}
        at_once = self._instances or max(1, self._threads // width)
        mode = hint.PerformanceMode
        config[hint.performance_mode()] = mode.LATENCY if at_once == 1 else mode.THROUGHPUT
        if self._device == CPU:
            config |= {
                properties.inference_num_threads(): width * at_once,
                properties.num_streams(): at_once,
                hint.enable_cpu_pinning(): False,  # the widths would be pinned to the same CPUs
            }
        return Compiled(core().compile_model(model, self._device, config), width, at_once)

    def _found(self, model: ov.Model) -> RunsOn:
        """Return what OpenVINO says that it computes in, which need not be what was asked for."""
        used = self.all[0].model.get_property(hint.inference_precision())
        name = _PRECISIONS.get(used, used.get_type_name())
        if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
            name = Precision.INT8
        return RunsOn(f"OpenVINO {VERSION}", str(name), self._device)

    def _warn(self, precision: Precision) -> None:
        _log.info("OpenVINO runs the model on %s", self.runs_on)
        if precision is not Precision.BF16:
            return
        if self.runs_on.precision != precision:
            _log.warning(
                "%s has no bfloat16: the model runs in %s", self._device, self.runs_on.precision
            )
        elif "BF16" not in core().get_property(self._device, "OPTIMIZATION_CAPABILITIES"):
            _log.warning(
                "%s has no instructions for bfloat16: OpenVINO emulates it, slower than fp32",
                self._device,
            )


class Compiled:
    """A model compiled for `streams` calls side by side that are each on `width` threads."""

    def __init__(self, model: Any, width: int, streams: int) -> None:
        self.model = model
        self.width = width
        self._idle: deque[Any] = deque()
        self._free = Semaphore(streams)

    def run_in_turn(
        self, calls: Sequence[Sequence[Array]], deadline: Deadline | None
    ) -> list[list[Array]]:
        """Return the outputs of each call, one after another, once a stream is free.

        Raises DeadlineExceeded when none is in time, and what `run` raises.
        """
        if not self._free.acquire(
            timeout=None if deadline is None else max(0.0, deadline.remaining())
        ):
            assert deadline is not None
            raise deadline.exceeded("waiting for an instance of the model")
        try:
            return self.run(calls, 1, deadline)
        finally:
            self._free.release()

    def run(
        self, calls: Sequence[Sequence[Array]], at_once: int, deadline: Deadline | None
    ) -> list[list[Array]]:
        """Return the outputs of each call; `at_once` of them run side by side."""
        running = _Running([self._request() for _ in range(at_once)])
        try:
            with running.stopped_at(deadline):
                results = running.results(calls)
        except (RuntimeError, MemoryError) as error:
            running.end()
            if running.is_stopped and deadline is not None:
                raise deadline.exceeded("running the model") from error
            raise _explained(error) from error
        finally:
            self._idle.extend(running.requests)
        return results

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self.model.create_infer_request()


class _Running:
    """Calls in the requests that they run in, one after another in each."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self.requests = requests
        self.is_stopped = False

    def results(self, calls: Sequence[Sequence[Array]]) -> list[list[Array]]:
        """Return copies of the outputs of each call. Raises RuntimeError."""
        if len(calls) == 1:
            return [self._result(*calls)]
        found, count = list[list[Array]](), len(self.requests)
        for index, inputs in enumerate(calls):
            request = self.requests[index % count]
            if index >= count:
                found.append(_outputs(request))
            if self.is_stopped:
                raise RuntimeError("stopped between two calls")
            request.reset_state()  # of a model that keeps one, the last call's is another caller's
            request.start_async(dict(enumerate(inputs)), share_inputs=True)
        found += [_outputs(self.requests[index % count]) for index in range(len(found), len(calls))]
        return found

    def _result(self, inputs: Sequence[Array]) -> list[Array]:
        """Return copies of the outputs of the only call.

        In one step: to start it and then to wait gives up the interpreter's lock twice, which takes
        a tenth of a call of some milliseconds.
        """
        request = self.requests[0]
        request.reset_state()
        request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)
        return _copied(request)

    def stopped_at(self, deadline: Deadline | None) -> AbstractContextManager[object]:
        """Return a context in which the calls are aborted when the deadline passes."""
        return nullcontext() if deadline is None else stopped_at(deadline, self._stop)

    def end(self) -> None:
        """Abort what still runs, and wait for it: the requests are used again."""
        for request in self.requests:
            request.cancel()
            try:
                request.wait()
            except RuntimeError:  # that it was cancelled
                continue

    def _stop(self) -> None:
        self.is_stopped = True
        for request in self.requests:
            request.cancel()


class _Asked(local):
    """How many threads the calling thread has asked for."""

    threads = 0


def _outputs(request: Any) -> list[Array]:
    request.wait()
    return _copied(request)


def _copied(request: Any) -> list[Array]:
    return [tensor.data.copy() for tensor in request.output_tensors]


def _explained(error: Exception) -> MlserveError:
    text = plain(error)
    if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate" in text:
        return Overloaded(
            f"not enough memory to run the request: {text}",
            hint="send smaller requests, or give the server more memory",
        )
    if "shape" in text.lower() or "tensor size" in text:
        return InvalidInput(
            f"the model refuses the input: {text}",
            hint="compare the input with the signature: mlserve metadata",
        )
    return InferenceFailed(f"OpenVINO failed: {text}", hint=RUN_IT_OUTSIDE)
