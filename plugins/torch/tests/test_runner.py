"""Any PyTorch model served as it is: types, shapes, errors, deadlines, threads, graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlserve_torch.device import device_for, devices
from mlserve_torch.gpu_jpeg import NvJpeg
from mlserve_torch.graphs import GraphedInstance, Replay, capture_sizes
from mlserve_torch.instances import Instances
from mlserve_torch.program import DTYPES, Program, opened
from mlserve_torch.runner import has_independent_rows
from mlserve_torch.writes import graph_keeps_state, script_keeps_state
from torch import nn

from mlserve import export, plugins
from mlserve.artifact import Artifact
from mlserve.backend import Batching, Runner
from mlserve.deadline import Deadline
from mlserve.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelLoadFailed,
    Overloaded,
    PluginError,
    Unavailable,
    UsageError,
)
from mlserve.load_options import JpegChoice, LoadOptions
from mlserve.sources import Kind, ModelRequest
from mlserve.tensors import DType, TensorSpec
from tests.harness.eager_capture import EagerCapture

pytestmark = pytest.mark.framework

Dim = torch.export.Dim
CPU = torch.device("cpu")
Saved = Callable[..., Path]
Array = np.ndarray[Any, Any]


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Runner]:
    """Exports a file as tensors, as the command does, and loads it: `loaded(path)`."""

    def load(path: Path, **request: Any) -> Runner:
        wanted = ModelRequest("m", str(path), kind=Kind.TENSORS, **request)
        return plugins.backend("torch").load(
            export.export(wanted, "torch", store=tmp_path / "store"), LoadOptions()
        )

    return load


def run(runner: Runner, **inputs: Array) -> dict[str, Array]:
    return dict(runner.run("serving_default", inputs))


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_every_type_arrives_and_returns_unchanged(
    dtype: torch.dtype, saved: Saved, tmp_path: Path
) -> None:
    path = saved(Same(), torch.zeros(2, 3, dtype=dtype))
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    path.rename(folder / "any.pt2")
    runner = plugins.backend("torch").load(Artifact.open(tmp_path / "m", "m", 1), LoadOptions())
    (spec,) = runner.signatures["serving_default"].inputs
    assert (spec.dtype, spec.shape) == (DTYPES[dtype], (None, 3))
    name = spec.dtype.label
    given = np.arange(12).reshape(4, 3).astype(name if name != "bfloat16" else "float32")
    if name == "bfloat16":
        import ml_dtypes

        given = given.astype(ml_dtypes.bfloat16)
    found = run(runner, x=given)["output_0"]
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(found, given)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.last = nn.Embedding(100, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> Any:
        mean = self.table(ids.long()).mean(1)
        return {"boxes": self.last(mean) * scale, "most": mean.max(), "found": mean.sum() > 0}


@pytest.fixture
def detector(saved: Saved, loaded: Callable[..., Runner]) -> Runner:
    sizes = {"ids": {0: Dim("batch"), 1: Dim.DYNAMIC}, "scale": {}}
    return loaded(
        saved(Detector(), torch.ones(2, 5, dtype=torch.int32), torch.tensor(2.0), dynamic=sizes)
    )


def test_scalars_flags_and_ids_go_both_ways(detector: Runner) -> None:
    ids = np.array([[1, 2, 3], [4, 5, 99]], np.int32)
    found = run(detector, ids=ids, scale=np.array(3.0, np.float32))
    with torch.inference_mode():
        expected = Detector()(torch.from_numpy(ids), torch.tensor(3.0))
    assert (found["most"].shape, found["found"].shape, found["found"].dtype) == ((), (), np.bool_)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-6)


@pytest.mark.parametrize("bad", [100, -1])
def test_an_id_that_the_model_does_not_know_is_named(detector: Runner, bad: int) -> None:
    ids = np.array([[1, 2, 3], [4, bad, 6]], np.int32)
    with pytest.raises(InvalidInput) as refused:
        run(detector, ids=ids, scale=np.array(1.0, np.float32))
    assert refused.value.message == (
        f"input 'ids' has the id {bad} at [1, 1]; the model knows 0 to 99"
    )


def test_a_size_that_the_program_refuses_is_the_caller_s_error(
    saved: Saved, loaded: Callable[..., Runner]
) -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    rows, width = Dim("rows", max=9), Dim("width")
    two = torch.rand(4, 2)
    runner = loaded(saved(Sum(), two, two, dynamic=({0: rows, 1: width}, {0: rows, 1: width})))
    with pytest.raises(InvalidInput, match=r"refuses the input: b\.size\(\)\[1\] == a\.size"):
        run(runner, a=np.ones((5, 2), np.float32), b=np.ones((5, 3), np.float32))
    many = np.arange(40, dtype=np.float32).reshape(20, 2)
    found = run(runner, a=many, b=many)["output_0"]
    np.testing.assert_array_equal(found, 2 * many)
    with pytest.raises(InvalidInput, match="no rows"):
        run(runner, a=many[:0], b=many[:0])


class Product(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * b


@pytest.mark.parametrize("kind", ["program", "one row", "TorchScript"])
@pytest.mark.parametrize("lengths", [(4, 5), (5, 4), (4, 1)])
def test_inputs_of_different_lengths_are_never_cut_to_the_shorter_one(
    kind: str,
    lengths: tuple[int, int],
    saved: Saved,
    scripted: Callable[[nn.Module], Path],
    loaded: Callable[..., Runner],
) -> None:
    specs = tuple(TensorSpec(name, DType.FLOAT32, (None, 2)) for name in "ab")
    if kind == "TorchScript":
        runner = loaded(scripted(Product()), inputs=specs)
    else:
        dynamic = ({0: Dim.DYNAMIC},) * 2 if kind == "program" else None
        like = torch.rand(1 if dynamic is None else 3, 2)
        runner = loaded(saved(Product(), like, like, dynamic=dynamic))
    with pytest.raises(InvalidInput) as refused:
        run(runner, a=np.ones((lengths[0], 2), np.float32), b=np.ones((lengths[1], 2), np.float32))
    assert refused.value.message == (
        f"the inputs differ in the number of rows: 'a' has {lengths[0]}, 'b' has {lengths[1]}"
    )


def test_a_fixed_batch_of_one_is_run_row_by_row(
    saved: Saved, loaded: Callable[..., Runner]
) -> None:
    runner = loaded(saved(nn.Linear(3, 2), torch.rand(1, 3), dynamic=None))
    rows = np.random.default_rng(0).random((7, 3), np.float32)
    together = run(runner, input=rows)["output_0"]
    alone = np.concatenate([run(runner, input=row[np.newaxis])["output_0"] for row in rows])
    np.testing.assert_array_equal(together, alone)


def test_torchscript_is_served_with_the_names_of_the_export(
    scripted: Callable[[nn.Module], Path], loaded: Callable[..., Runner]
) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    spec = TensorSpec("features", DType.FLOAT32, (None, 3))
    runner = loaded(scripted(module), inputs=(spec,))
    rows = np.random.default_rng(0).random((4, 3), np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(run(runner, features=rows)["output_0"], expected, rtol=1e-6)


def test_torchscript_without_a_manifest_says_what_to_do(
    scripted: Callable[[nn.Module], Path], tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    scripted(nn.Linear(3, 2)).rename(tmp_path / "m" / "1" / "model.pt")
    with pytest.raises(ModelLoadFailed, match="described: none") as refused:
        plugins.backend("torch").load(Artifact.open(tmp_path / "m", "m", 1), LoadOptions())
    assert "--input" in str(refused.value.hint)


def test_devices_that_are_not_there_are_refused_with_those_that_are() -> None:
    assert str(device_for("cpu")) == "cpu"
    assert (
        str(device_for(None))
        == str(device_for("auto"))
        == devices()[-1 if len(devices()) > 1 else 0]
    )
    for wanted in ("cuda:99", "gpu", "cuda" if len(devices()) == 1 else "cuda:98"):
        with pytest.raises(PluginError) as refused:
            device_for(wanted)
        assert f"no device {wanted!r} (there are: cpu" in refused.value.message
        assert refused.value.hint


def test_a_gpu_for_jpegs_needs_a_gpu(colours: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a GPU, and the model runs on cpu"):
        NvJpeg(CPU)
    from mlserve.testing.artifacts import exported

    artifact = exported("torch", colours, tmp_path / "m")
    options = LoadOptions(device="cpu", jpeg_decoder=JpegChoice.GPU)
    with pytest.raises(UsageError, match="--jpeg-decoder gpu"):
        plugins.backend("torch").load(artifact, options)


def test_a_jpeg_decoder_for_a_model_of_tensors_is_said_to_have_no_effect(
    saved: Saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ModelRequest("m", str(saved(Same(), torch.zeros(2, 3))), kind=Kind.TENSORS)
    artifact = export.export(wanted, "torch", store=tmp_path / "store")
    options = LoadOptions(jpeg_decoder=JpegChoice.ACCURATE)
    plugins.backend("torch").load(artifact, options).close()
    assert "--jpeg-decoder has no effect" in caplog.text


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.fixture(scope="module")
def program(saved: Saved) -> Program:
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
    saved: Saved, tmp_path: Path
) -> None:
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    found = []
    for module in (Counting(), Centred()):
        request = ModelRequest("m", str(saved(module, torch.rand(2, 3))))
        found.append(export.export(request, "torch", store=tmp_path).manifest)
    assert [has_independent_rows(manifest) for manifest in (*found, None)] == [True, False, False]


class Overwriting(nn.Module):  # type: ignore[misc]
    """Changes the tensor that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


@pytest.mark.parametrize("is_script", [True, False])
def test_a_model_that_overwrites_its_input_leaves_that_of_the_request(
    is_script: bool, loaded: Callable[..., Runner], tmp_path: Path
) -> None:
    """The same arrays may be asked again: of a shadow, or alone after a batch has failed."""
    path = tmp_path / ("m.pt" if is_script else "m.pt2")
    if is_script:
        with pytest.warns(DeprecationWarning, match="jit.script"):
            torch.jit.script(Overwriting()).save(str(path))
        runner = loaded(path, inputs=(TensorSpec("x", DType.FLOAT32, (None, 2)),))
    else:
        torch.export.save(torch.export.export(Overwriting(), (torch.zeros(3, 2),)), path)
        runner = loaded(path)
    x = np.ones((3, 2), np.float32)
    for _ in range(2):
        (output,) = runner.run("serving_default", {"x": x}).values()
        assert (output == 4).all()
    assert (x == 1).all()


class Scratch(nn.Module):  # type: ignore[misc]
    """Works in memory of its own, and returns a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.zeros(4096))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = self.scratch[: x.shape[0]]
        part.copy_(x)
        part += torch.sin(torch.sin(x)) * 0
        return part


@pytest.mark.parametrize("is_script", [True, False])
def test_a_model_that_works_in_memory_of_its_own_gives_each_caller_its_own_answer(
    is_script: bool, loaded: Callable[..., Runner], tmp_path: Path
) -> None:
    path = tmp_path / ("m.pt" if is_script else "m.pt2")
    if is_script:
        with pytest.warns(DeprecationWarning, match="jit.script"):
            torch.jit.script(Scratch()).save(str(path))
        runner = loaded(path, inputs=(TensorSpec("x", DType.FLOAT32, (None,)),))
    else:
        sizes = ({0: torch.export.Dim("n", min=1, max=4096)},)
        program = torch.export.export(Scratch(), (torch.zeros(3),), dynamic_shapes=sizes)
        torch.export.save(program, path)
        runner = loaded(path)

    def ask(number: int) -> bool:
        (output,) = runner.run("serving_default", {"x": np.full(4000, number, np.float32)}).values()
        return bool((output == number).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(200)))


class Layers(nn.Module):  # type: ignore[misc]
    """Works in place on what it has computed, as most networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm(self.linear(x)))
        y += self.linear.bias
        for _ in range(2):
            y = self.act(y) + x
        return y


class Remembering(nn.Module):  # type: ignore[misc]
    """Sets an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.last
        self.last = x[0]
        return y


@pytest.mark.parametrize(
    ("kind", "expected"), [(Layers, False), (Overwriting, False), (Remembering, True)]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_only_what_writes_to_tensors_of_its_own_keeps_state(
    kind: type[nn.Module], expected: bool
) -> None:
    x = torch.zeros(2, 2)
    assert script_keeps_state(torch.jit.script(kind().eval())) is expected
    assert graph_keeps_state(torch.export.export(kind().eval(), (x,)).module()) is expected
