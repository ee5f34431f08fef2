"""Open a `.pt2` or TorchScript file as a function of tensors, with their names and types."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from mlserve.differences import Arrays
from mlserve.errors import ExportError, InvalidInput, reason_of
from mlserve.frameworks import unheard
from mlserve.probe import tried
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve_torch.archive import FileKind, is_for_cuda, kind_of, moved_to_cpu, require_safe
from mlserve_torch.writes import (
    graph_keeps_state,
    graph_overwrites,
    script_keeps_state,
    script_overwrites,
)

DTYPES: Mapping[torch.dtype, DType] = {
    getattr(torch, dtype.label): dtype
    for dtype in DType
    if dtype is not DType.BYTES and not dtype.label.startswith("q")
}
"""Element types by PyTorch's."""
_MOST_ROWS = 2**31 - 1


Call = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True)
class Program:
    """A model on a device: `call` maps its inputs, in order, to its outputs, in order.

    `rows` are the fewest and the most rows of a call; None where the model has no batch dimension.
    With the most of 1, a batch is run row by row. `graph_module` is None for TorchScript. One that
    `overwrites` may change the tensors that it is given. One that `keeps_state` writes to tensors
    of its own: two calls at the same time would mix their numbers.
    """

    call: Call
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows: tuple[int, int] | None
    graph_module: torch.fx.GraphModule | None = None
    overwrites: bool = False
    keeps_state: bool = False

    def tensors_of(self, inputs: Arrays) -> list[torch.Tensor]:
        """Return the inputs in order, as tensors of the CPU that a call may change."""
        arrays = [inputs[spec.name] for spec in self.inputs]
        return [to_torch(array.copy() if self.overwrites else array) for array in arrays]

    def answers(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs on the CPU by name. Raises InvalidInput for what is refused."""
        tensors = self.tensors_of(inputs)
        try:
            with torch.inference_mode():
                outputs = self.call(tensors)
        except (RuntimeError, AssertionError, IndexError) as error:
            raise InvalidInput(reason_of(error)) from error
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, map(to_numpy, outputs), strict=True))


def opened(
    path: Path,
    device: torch.device,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[TensorSpec] = (),
    *,
    allow_pickle: bool = False,
    allow_ops: bool = False,
) -> Program:
    """Open the file on that device.

    `inputs` and `outputs` describe a TorchScript file, which does not say them. Raises ExportError.
    """
    kind = kind_of(path)
    try:
        require_safe(path, kind, allow_pickle=allow_pickle, allow_ops=allow_ops)
        if kind is FileKind.PROGRAM:
            return _of_program(path, _loaded(path, device, allow_pickle=allow_pickle))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # users have these files all the same
            module = torch.jit.load(str(path), map_location=device).eval()
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # torch raises anything for a damaged file
        raise ExportError(
            f"PyTorch {torch.__version__} cannot load {path}: {reason_of(error)}",
            hint="check that the file is whole, and that a version of PyTorch at least as new is "
            "installed as the one that wrote it",
        ) from error
    return _of_script(path, module, inputs, outputs)


def _loaded(path: Path, device: torch.device, *, allow_pickle: bool) -> Any:
    from torch.export.passes import move_to_device_pass

    file: Any = str(path)
    if not torch.cuda.is_available() and is_for_cuda(path):
        file = io.BytesIO()
        moved_to_cpu(path, file)
        file.seek(0)
    with _loads_weights_only(not allow_pickle), unheard("torch.export"):
        program = torch.export.load(file)
    return move_to_device_pass(program, str(device))


@contextmanager
def _loads_weights_only(wanted: bool) -> Iterator[None]:
    """Make `torch.load` refuse whatever is not a tensor, which `torch.export.load` does not ask."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    if wanted:
        os.environ[variable] = "1"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop(variable) if before is None else os.environ.update({variable: before})


def _of_program(path: Path, program: Any) -> Program:
    signature = program.graph_signature
    metas = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors = [arg for arg in given if isinstance(arg, TensorArgument)]
    for arg in given:
        if not isinstance(arg, TensorArgument | ConstantArgument):
            raise ExportError(
                f"{path} has an input {arg.name!r} that is a number, not a tensor",
                hint="export the program with a tensor in its place, or with a constant",
            )
    results = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    kept = [index for index, arg in enumerate(results) if isinstance(arg, TensorArgument)]
    names = output_names(program.call_spec.out_spec)
    inputs = [metas[arg.name] for arg in tensors]
    outputs = [metas[results[index].name] for index in kept]
    rows = _rows(program, inputs, outputs)
    module = program.module()

    def call(arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        rest = iter(arrays)
        flat = [next(rest) if isinstance(arg, TensorArgument) else arg.value for arg in given]
        args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
        leaves = pytree.tree_leaves(module(*args, **kwargs))
        return [leaves[index] for index in kept]

    keeps_state = graph_keeps_state(module)
    return Program(
        _with_its_own_outputs(call) if keeps_state else call,
        tuple(_spec(path, arg.name, meta, rows) for arg, meta in zip(tensors, inputs, strict=True)),
        tuple(
            _spec(path, names[index], meta, rows) for index, meta in zip(kept, outputs, strict=True)
        ),
        rows,
        module,
        overwrites=graph_overwrites(module),
        keeps_state=keeps_state,
    )


def _rows(program: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, int] | None:
    """Return the fewest and the most rows; None unless all tensors have the same first size.

    A size of 0 or 1 is special to torch.export, which gives a free dimension the least of 2 and
    checks for no less than that.
    """
    firsts = [tensor.shape[0] if tensor.ndim else None for tensor in (*inputs, *outputs)]
    if not inputs or not outputs or len({str(first) for first in firsts}) != 1:
        return None
    first = firsts[0]
    if isinstance(first, int):
        return (1, 1) if first == 1 else None
    bounds = program.range_constraints.get(first.node.expr) if first is not None else None
    if bounds is None:
        return None
    least, most = (
        int(bound) if bound.is_Integer else _MOST_ROWS for bound in (bounds.lower, bounds.upper)
    )
    return (1 if least <= 2 else least), min(most, _MOST_ROWS)  # noqa: PLR2004


def output_names(spec: Any) -> list[str]:
    """Return a name for each leaf of a result: the keys that lead to it, else `output_0`, ..."""
    leaves = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(leaves)[0]]
    names = [_joined([_key(part) for part in path]) for path in paths]
    is_clear = len(set(names)) == len(names)
    return names if is_clear else [f"output_{index}" for index in range(len(names))]


def _joined(keys: Sequence[str]) -> str:
    path = keys or ("0",)
    return "_".join(("output", *path) if path[0].isdigit() else path)


def _key(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _spec(path: Path, name: str, meta: Any, rows: tuple[int, int] | None) -> TensorSpec:
    dtype = DTYPES.get(meta.dtype)
    if dtype is None:
        raise ExportError(
            f"the tensor {name} of {path} has the type {meta.dtype}, which cannot be sent",
            hint="convert it to a usual type inside the model",
        )
    sizes = [size if isinstance(size, int) else None for size in meta.shape]
    if rows is not None:
        sizes[0] = None
    return TensorSpec(name, dtype, tuple(sizes))


def _of_script(
    path: Path, module: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Program:
    """Return a TorchScript module as a program; outputs that are not given are found by a run."""
    _require_inputs(path, module, inputs)

    def call(arrays: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [leaf for leaf in pytree.tree_leaves(module(*arrays)) if torch.is_tensor(leaf)]

    has_rows = all(spec.shape is not None and spec.shape[:1] == (None,) for spec in inputs)
    rows = (1, _MOST_ROWS) if has_rows else None
    found = tuple(outputs) or _outputs_of(path, module, inputs)
    keeps_state = script_keeps_state(module)
    return Program(
        _with_its_own_outputs(call) if keeps_state else call,
        tuple(inputs),
        found,
        rows,
        overwrites=script_overwrites(module),
        keeps_state=keeps_state,
    )


def _with_its_own_outputs(call: Call) -> Call:
    """Return the call with copies of its outputs: the next call may write to the same memory."""

    def copied(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [output.clone() for output in call(tensors)]

    return copied


def _require_inputs(path: Path, module: Any, inputs: Sequence[TensorSpec]) -> None:
    """Raise ExportError unless the inputs fit the module's arguments, which are all tensors."""
    arguments = [a for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
    wanted = ", ".join(f"{argument.name}: {argument.type}" for argument in arguments)
    others = [argument.name for argument in arguments if str(argument.type) != "Tensor"]
    if others:
        raise ExportError(
            f"{path} takes {wanted}: {others[0]} is not a tensor",
            hint="script a module whose inputs are tensors",
        )
    if len(arguments) != len(inputs):
        given = ", ".join(map(str, inputs)) or "none"
        options = " ".join(f"--input '{a.name}:float32[?,SIZE]'" for a in arguments)
        raise ExportError(
            f"{path} is TorchScript, which does not say what its inputs are: it takes {wanted}; "
            f"described: {given}",
            hint=f"describe each in order, with ? for the batch: {options}",
        )


def _outputs_of(path: Path, module: Any, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Run the module on made-up inputs of three rows and of two; a size that differs is open."""
    signature = Signature(DEFAULT_SIGNATURE, tuple(inputs), ())
    device = next(chain(module.parameters(), module.buffers()), torch.empty(0)).device

    def leaves(arrays: Arrays) -> list[tuple[str, Any]]:
        tensors = [to_torch(arrays[spec.name]).to(device) for spec in inputs]
        try:
            with torch.inference_mode():
                results, spec = pytree.tree_flatten(module(*tensors))
        except Exception as error:
            raise ExportError(reason_of(error)) from error
        pairs = zip(output_names(spec), results, strict=True)
        return [(name, leaf) for name, leaf in pairs if torch.is_tensor(leaf)]

    trial = tried(signature, lambda arrays: dict(leaves(arrays)))
    if isinstance(trial, str):
        raise ExportError(
            f"{path} does not run on inputs as described ({', '.join(map(str, inputs))}): {trial}",
            hint="check the types and sizes in --input",
        )
    fewer = {name: array[:2] if array.ndim else array for name, array in trial.inputs.items()}
    again = dict(leaves(fewer))
    return tuple(
        TensorSpec(
            name,
            DTYPES[leaf.dtype],
            tuple(
                a if a == b else None for a, b in zip(leaf.shape, again[name].shape, strict=True)
            ),
        )
        for name, leaf in trial.outputs.items()
    )


_BFLOAT16 = DType.BFLOAT16.label


def to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return the array as a tensor of the CPU that shares its memory if it can be written."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # it makes a vector of a scalar
    if not array.flags.writeable:  # torch has no read-only tensors, and warns
        array = array.copy()
    if array.dtype.name == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor of the CPU as an array."""
    array: np.ndarray[Any, Any]
    tensor = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:
        array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    array = tensor.resolve_conj().resolve_neg().numpy()
    return array
