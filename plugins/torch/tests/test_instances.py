"""Where calls run: captured graphs, instances and their threads; how PyTorch fails there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from mlserve_torch.graphs import GraphedInstance, Replay, capture_sizes
from mlserve_torch.instances import Instances
from mlserve_torch.program import Program, opened
from mlserve_torch.runner import has_independent_rows
from torch import nn

from mlserve import export
from mlserve.backend import Batching
from mlserve.deadline import Deadline
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from mlserve.load_options import LoadOptions
from mlserve.sources import ModelRequest
from tests.harness.eager_capture import EagerCapture

pytestmark = pytest.mark.framework

CPU = torch.device("cpu")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.fixture(scope="module")
def program(saved: Callable[..., Path]) -> Program:
    return opened(saved(Counting(), torch.rand(2, 3)), CPU)


class CountedCapture(EagerCapture):
    """Notes the batch sizes that are replayed."""

    def __init__(self) -> None:
        self.played: list[int] = []

    def capture(self, call: Any, inputs: Sequence[torch.Tensor]) -> Replay:
        replay = super().capture(call, inputs)

        def play() -> None:
            self.played.append(len(inputs[0]))
            replay.play()

        return Replay(replay.inputs, replay.outputs, play)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 31, 32])
def test_a_batch_is_filled_up_to_the_next_graph_and_gets_the_same_answer(
    program: Program, rows: int
) -> None:
    capture = CountedCapture()
    instance = GraphedInstance(program, CPU, capture_sizes(program), capture, is_padded=True)
    assert instance.sizes == (1, 2, 4, 8, 16, 24, 32)
    x = torch.rand(rows, 3)
    capture.played.clear()
    (found,) = instance.run([x])
    with torch.inference_mode():
        torch.testing.assert_close(found, program.call([x])[0])
    assert found.shape == (rows, 2)
    assert capture.played == [next(size for size in instance.sizes if size >= rows)]


def test_a_batch_is_not_filled_up_where_rows_may_depend_on_each_other(program: Program) -> None:
    capture = CountedCapture()
    instance = GraphedInstance(program, CPU, capture_sizes(program), capture, is_padded=False)
    capture.played.clear()
    for rows in (3, 4, 5):
        assert instance.run([torch.rand(rows, 3)])[0].shape == (rows, 2)
    assert capture.played == [4]


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_a_graph_that_differs_or_cannot_be_captured_is_not_used(
    program: Program, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(EagerCapture):
        def capture(self, call: Any, inputs: Sequence[torch.Tensor]) -> Replay:
            if fault == "fails":
                raise RuntimeError("operation not permitted when stream is capturing")
            replay = super().capture(call, inputs)
            return Replay(replay.inputs, replay.outputs, lambda: replay.outputs[0].add_(1))

    instance = GraphedInstance(program, CPU, (1, 2), Faulty(), is_padded=True)
    assert instance.sizes == ()
    assert ("output_0 differs" if fault == "differs" else "not permitted") in caplog.text
    x = torch.rand(2, 3)
    torch.testing.assert_close(instance.run([x])[0], program.call([x])[0].detach())


def test_a_long_batch_runs_in_parts_and_several_threads_get_their_own_answers(
    program: Program,
) -> None:
    instances = Instances(
        program, CPU, LoadOptions(instances=2, threads=2), is_padded=True, capture=EagerCapture
    )
    assert instances.batching == Batching(most=32, at_once=3)
    batches = [torch.rand(rows, 3) for rows in (100, 1, 7, 33, 32, 64, 65, 2)] * 4
    with torch.inference_mode():
        expected = [program.call([x])[0] for x in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda x: instances.run([x])[0], batches))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_each_model_of_a_process_runs_with_its_own_threads(program: Program) -> None:
    """The number is a setting of PyTorch's, and the thread that calls runs both models."""
    one, three = (
        Instances(program, CPU, LoadOptions(threads=count), is_padded=True) for count in (1, 3)
    )

    def threads_of(model: Instances) -> int:
        model.run([torch.rand(1, 3)])
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as worker:
        asked = [one, three, one]
        assert list(worker.map(threads_of, asked)) == [1, 3, 1]


def test_the_cpu_leaves_batching_to_the_server(program: Program) -> None:
    assert Instances(program, CPU, LoadOptions(), is_padded=True).batching is None


def failing(error: Exception) -> Program:
    def call(_: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        raise error

    return Program(call, (), (), None)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), Overloaded, "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Overloaded, "allocate memory"),
        (MemoryError(), Overloaded, "MemoryError"),
        (IndexError("index out of range in self"), InvalidInput, "index out of range"),
        (RuntimeError("mat1 and mat2"), InferenceFailed, "PyTorch failed: mat1 and mat2"),
    ],
)
def test_errors_of_pytorch_are_told_apart(
    error: Exception, kind: type[Exception], said: str
) -> None:
    instances = Instances(failing(error), CPU, LoadOptions(), is_padded=False)
    with pytest.raises(kind, match=said) as raised:
        instances.run([])
    assert type(raised.value) is kind


def test_after_an_error_of_the_gpu_itself_it_is_not_used_again() -> None:
    """A failed assertion in a kernel ends all work of the process on that GPU."""
    fault = torch.AcceleratorError("CUDA error: device-side assert triggered")
    instances = Instances(failing(fault), CPU, LoadOptions(), is_padded=False)
    with pytest.raises(InferenceFailed, match="device-side assert"):
        instances.run([])
    with pytest.raises(Unavailable, match="cannot use it any more") as refused:
        instances.run([])
    assert "restart the server" in str(refused.value.hint)


def test_a_call_waits_for_its_instance_no_longer_than_its_deadline() -> None:
    is_running, may_end = threading.Event(), threading.Event()

    def call(_: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        is_running.set()
        may_end.wait(30)
        return [torch.zeros(1)]

    options = LoadOptions(instances=1)
    instances = Instances(Program(call, (), (), None), CPU, options, is_padded=False)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(instances.run, [])
        assert is_running.wait(30)
        with pytest.raises(DeadlineExceeded, match="waiting for an instance"):
            instances.run([], Deadline.after(0.05))
        may_end.set()
        assert torch.equal(first.result()[0], torch.zeros(1))


def test_calls_run_side_by_side_each_on_the_threads_that_it_may_use() -> None:
    both, seen = threading.Barrier(2), set()

    def call(_: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        both.wait(30)
        seen.add(torch.get_num_threads())
        return [torch.zeros(1)]

    program = Program(call, (), (), None)
    instances = Instances(program, CPU, LoadOptions(threads=4), is_padded=False)

    def run(limit: int) -> None:
        instances.limit_threads(limit)
        instances.run([])

    for limits, used in (((1, 2), {1, 2}), ((0, 99), {4})):
        seen.clear()
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(run, limits)) == [None, None]
        assert seen == used


def test_only_rows_that_the_export_found_independent_are_filled_up(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    found = []
    for module in (Counting(), Centred()):
        request = ModelRequest("m", str(saved(module, torch.rand(2, 3))))
        found.append(export.export(request, "torch", store=tmp_path).manifest)
    assert [has_independent_rows(manifest) for manifest in (*found, None)] == [True, False, False]
