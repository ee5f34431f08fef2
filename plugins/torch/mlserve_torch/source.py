"""Open the user's own PyTorch file: an image classifier to measure, or a model of tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlserve.classifiers import Network, classifier
from mlserve.digests import path_digest
from mlserve.errors import ExportError, MlserveError, UsageError, reason_of
from mlserve.image_input import ONE_IMAGE_IN, ImageInput, image_input, or_grey
from mlserve.kinds import is_for_tensors, kind_fact
from mlserve.measure import Subject, measure
from mlserve.sources import Fact, How, Model, ModelRequest, Reference, TensorModel
from mlserve.tensors import DEFAULT_SIGNATURE, Signature
from mlserve_torch.archive import MAKE_PT2, FileKind, kind_of
from mlserve_torch.device import CPU
from mlserve_torch.graph import graph_of
from mlserve_torch.program import Program, opened, to_numpy, to_torch

Array = np.ndarray[Any, Any]
_MATRIX = 2


def model_of_file(path: Path, request: ModelRequest) -> Model:
    """Open the model in that file. Raises ExportError; UsageError for a wrong option."""
    if request.inputs and kind_of(path) is FileKind.PROGRAM:
        raise UsageError(
            f"--input describes the inputs of {path}, which says them itself",
            hint="leave --input out",
        )
    program = opened(
        path,
        torch.device(CPU),
        request.inputs,
        allow_pickle=request.allow_pickle,
        allow_ops=request.allow_unsafe_ops,
    )
    problem = _not_a_classifier(path, program, request)
    if is_for_tensors(request, problem):
        return _tensor_model(path, program, request, problem)
    return classifier(request, _network(path, program, request))


def _not_a_classifier(path: Path, program: Program, request: ModelRequest) -> ExportError | None:
    """Return why the model is not an image classifier; None if it may be one."""
    found = ", ".join(map(str, program.inputs)) or "nothing"
    given = ", ".join(map(str, program.outputs)) or "nothing"
    depths = request.pixels.depths
    is_image = len(program.inputs) == 1 and bool(ImageInput.readings(program.inputs[0], depths))
    is_row = len(program.outputs) == 1 and len(program.outputs[0].shape or ()) == _MATRIX
    if is_image and is_row:
        return None
    return ExportError(
        f"the model in {path} maps {found} to {given}, not a batch of images to rows of scores"
        + (or_grey(program.inputs[0]) if is_row and len(program.inputs) == 1 else ""),
        hint=ONE_IMAGE_IN,
    )


def _tensor_model(
    path: Path, program: Program, request: ModelRequest, problem: ExportError | None
) -> TensorModel:
    firsts = {spec.shape[:1] for spec in (*program.inputs, *program.outputs) if spec.shape}
    first = next(iter(firsts))[0] if len(firsts) == 1 else None
    is_fixed = program.rows is None and first is not None
    facts = {"kind": kind_fact(request, problem), **_batch_facts(program)}
    if is_fixed:
        why = f"the first size of every tensor is {first}"
        warning = f"{why}: if that is a batch, no other can be served; {MAKE_PT2}"
        facts["batch"] = Fact(How.FOUND, why, warning)
    return TensorModel(
        request.model,
        path,
        "torch",
        (Signature(DEFAULT_SIGNATURE, program.inputs, program.outputs),),
        f"file {path}",
        path_digest(path),
        facts=facts,
        details={"format": _format(program)},
        reference=Reference(
            f"PyTorch {torch.__version__}", lambda _, inputs: program.answers(inputs)
        ),
    )


def _batch_facts(program: Program) -> dict[str, Fact]:
    if program.rows is None or program.rows[1] > 1:
        return {}
    why = "the program takes one row at a time"
    return {"batch": Fact(How.FOUND, why, f"{why}, so that a batch is run row by row; {MAKE_PT2}")}


def _network(path: Path, program: Program, request: ModelRequest) -> Network:
    name, (spec,) = f"the model in {path}", program.inputs
    if program.rows is None or program.rows[0] > 1:
        raise ExportError(
            f"{name} takes {spec}: batches of a fixed size, not one image or several", hint=MAKE_PT2
        )
    image, layout = image_input(name, spec, str(spec), request, _runs(program))
    if image.colours is None:
        raise ExportError(f"{name} leaves the number of colours open ({spec})", hint=MAKE_PT2)
    height, width = image.size(name, request)
    run = _caller(program, image)
    module = program.graph_module
    graph = None if module is None else graph_of(module, image, (height, width))
    has_batches = program.rows[1] > 1
    try:
        subject = Subject(name, run, height, width, graph, has_batches, image.depth)
        contract = measure(subject, request)
    except MlserveError as error:
        if isinstance(error, ExportError):
            raise
        raise _does_not_run(name, height, width, error) from error
    except RuntimeError as error:
        raise _does_not_run(name, height, width, error) from error
    is_own_size = None not in (image.height, image.width)
    return Network(
        path,
        (height, width),
        contract,
        f"file {path}",
        path_digest(path),
        framework="torch",
        depth=image.depth,
        facts={
            "size": Fact(How.FOUND, "its input has that size") if is_own_size else Fact(How.GIVEN),
            "layout": layout,
            **_batch_facts(program),
        },
        details={
            "format": _format(program),
            "inputs": [spec.to_json()],
            "layout": image.layout.value,
        },
        reference=Reference(
            f"PyTorch {torch.__version__}", lambda _, inputs: {"outputs": run(inputs["images"])}
        ),
    )


def _runs(program: Program) -> Callable[[ImageInput, tuple[int, int]], bool]:
    def runs(image: ImageInput, size: tuple[int, int]) -> bool:
        try:
            _caller(program, image)(np.zeros((1, *size, image.depth), np.float32))
        except (RuntimeError, AssertionError):  # not this layout
            return False
        return True

    return runs


def _caller(program: Program, image: ImageInput) -> Callable[[Array], Array]:
    def call(images: Array) -> Array:
        arranged = to_torch(image.arranged(images))
        most = len(images) if program.rows is None else min(len(images), program.rows[1])
        with torch.inference_mode():
            parts = [program.call([part])[0] for part in arranged.split(most)]
        return np.concatenate([to_numpy(part.float()) for part in parts])

    return call


def _does_not_run(name: str, height: int, width: int, error: Exception) -> ExportError:
    return ExportError(
        f"{name} does not run on images of {width}x{height}: {reason_of(error)}",
        hint="check --input-size",
    )


def _format(program: Program) -> str:
    return "TorchScript" if program.graph_module is None else "torch.export"
