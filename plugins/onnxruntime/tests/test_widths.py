"""Sessions of several widths: which one a call runs in, the same bits from each, weights once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mlserve_onnxruntime import runner as runner_module
from mlserve_onnxruntime import widths as widths_module
from mlserve_onnxruntime.sessions import Sessions
from mlserve_onnxruntime.widths import widths
from onnx import TensorProto, helper, numpy_helper

from mlserve.artifact import Artifact
from mlserve.backend import limit_threads
from mlserve.errors import ModelLoadFailed
from mlserve.load_options import LoadOptions

pytestmark = pytest.mark.framework

CHANNELS, SIDE = 64, 8


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 6 MB: convolutions, whose weights get another layout, and a matrix."""
    numbers = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(numbers.normal(0, 0.1, shape).astype(np.float32), name)

    features = CHANNELS * SIDE * SIDE
    kinds = (TensorProto.FLOAT, ["N", 3, SIDE, SIDE]), (TensorProto.FLOAT, ["N", 300])
    x, y = (helper.make_tensor_value_info(n, *kind) for n, kind in zip("xy", kinds, strict=True))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Flatten", ["c"], ["d"]),
            helper.make_node("MatMul", ["d", "matrix"], ["y"]),
        ],
        "network",
        [x],
        [y],
        [
            weight("first", CHANNELS, 3, 3, 3),
            weight("second", CHANNELS, CHANNELS, 3, 3),
            weight("matrix", features, 300),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_operatorsetid("", 17)])
    model.ir_version = 9
    path = tmp_path_factory.mktemp("network") / "1" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


@pytest.fixture
def feeds() -> dict[str, Any]:
    pixels = np.random.default_rng(1).random((2, 3, SIDE, SIDE), dtype=np.float32)
    return {"x": pixels}


def bits(outputs: list[Any]) -> list[bytes]:
    return [output.tobytes() for output in outputs]


def mapped_weights() -> Iterator[str]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/mlserve-" in line and "/weights" in line:
            yield line.split(maxsplit=5)[5]


@pytest.mark.parametrize(
    ("threads", "expected"),
    [(1, [1]), (2, [2, 1]), (3, [3, 1]), (8, [8, 4, 2, 1]), (12, [12, 6, 3, 1])],
)
def test_each_width_is_half_of_the_one_before(threads: int, expected: list[int]) -> None:
    assert widths(threads) == expected


@pytest.mark.parametrize(
    ("limit", "width"), [(0, 12), (12, 12), (99, 12), (11, 6), (4, 3), (2, 1), (1, 1)]
)
def test_a_call_runs_in_the_widest_session_that_it_may(
    network: Path, limit: int, width: int
) -> None:
    sessions = Sessions(network, LoadOptions(threads=12))
    chosen = sessions._of_width(limit)
    assert chosen.get_session_options().intra_op_num_threads == width


def test_every_width_gives_the_bits_of_a_session_of_the_file(
    network: Path, feeds: dict[str, Any]
) -> None:
    plain = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    expected = bits(plain.run(["y"], feeds))
    sessions = Sessions(network, LoadOptions(threads=4))
    for threads in (0, 4, 2, 1):
        sessions.limit_threads(threads)
        assert bits(sessions.run(["y"], feeds, None)) == expected


def test_the_weights_are_in_memory_once_and_the_file_is_gone(
    network: Path, feeds: dict[str, Any]
) -> None:
    before = set(mapped_weights())
    sessions = Sessions(network, LoadOptions(threads=4))
    (mapped,) = set(mapped_weights()) - before
    assert mapped.endswith(" (deleted)")
    assert not Path(mapped.removesuffix(" (deleted)")).parent.exists()
    sessions.run(["y"], feeds, None)
    sessions.close()
    assert set(mapped_weights()) == before


def test_without_room_for_the_file_each_session_has_its_own_weights(
    network: Path, feeds: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = bits(Sessions(network, LoadOptions(threads=2)).run(["y"], feeds, None))
    before = set(mapped_weights())
    monkeypatch.setattr(widths_module, "_IN_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(widths_module.tempfile, "gettempdir", lambda: str(tmp_path / "absent"))
    sessions = Sessions(network, LoadOptions(threads=2))
    assert set(mapped_weights()) == before
    sessions.limit_threads(1)
    assert bits(sessions.run(["y"], feeds, None)) == expected


def test_what_a_killed_process_left_is_deleted_and_nothing_else(
    network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(widths_module, "_IN_MEMORY", tmp_path)
    left, used, young, other = (
        tmp_path / name
        for name in ("mlserve-widths-a", "mlserve-widths-b", "mlserve-widths-c", "mlserve-other")
    )
    load = (
        f"from mlserve_onnxruntime import widths as w; from pathlib import Path\n"
        f"w._IN_MEMORY = Path({str(tmp_path)!r})\n"
        "with w._folder(1) as folder:\n"
        "    (folder / 'weights').write_bytes(b'w')\n"
        "    print(folder, flush=True); input()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", load], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        Path(child.stdout.readline().strip()).rename(used)
        for folder in (left, young, other):
            folder.mkdir()
        for folder in (left, used, other):
            os.utime(folder, (0, 0))
        Sessions(network, LoadOptions(threads=2))
        assert sorted(tmp_path.iterdir()) == sorted([used, young, other])
        child.kill()
        child.wait()
        Sessions(network, LoadOptions(threads=2))
        assert sorted(tmp_path.iterdir()) == sorted([young, other])


def test_a_damaged_file_is_named_once(network: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "1" / "model.onnx"
    damaged.parent.mkdir()
    damaged.write_bytes(b"\0" + network.read_bytes())
    with pytest.raises(ModelLoadFailed, match=f"ONNX Runtime cannot load {damaged}"):
        Sessions(damaged, LoadOptions(threads=2))
    assert not list(tmp_path.glob("mlserve-*"))


def test_each_thread_has_a_limit_of_its_own(network: Path) -> None:
    artifact = Artifact.open(network.parents[1], "m", 1)
    runner = runner_module.load_runner(artifact, network, LoadOptions(threads=4))
    limit_threads(runner, 1)
    seen: list[int] = []

    def look() -> None:
        seen.append(runner._sessions._asked.threads)  # type: ignore[attr-defined]
        limit_threads(runner, 2)
        seen.append(runner._sessions._asked.threads)  # type: ignore[attr-defined]

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [0, 2]
    assert runner._sessions._asked.threads == 1  # type: ignore[attr-defined]


def test_instances_fix_the_width(network: Path, feeds: dict[str, Any]) -> None:
    sessions = Sessions(network, LoadOptions(threads=4, instances=2))
    sessions.limit_threads(1)
    assert [s.get_session_options().intra_op_num_threads for s in sessions.all] == [2, 2]
    assert len(sessions.run(["y"], feeds, None)) == 1
