"""Models that write to tensors: to that of the request, and to their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mlserve_torch.writes import graph_keeps_state, script_keeps_state
from torch import nn

from mlserve.backend import Runner
from mlserve.tensors import DType, TensorSpec

pytestmark = pytest.mark.framework


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
