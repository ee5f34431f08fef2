"""Serve a PyTorch model: an image classifier with its pipeline, or the model's own tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
import torch

from mlserve.artifact import EXPORT_AGAIN, Artifact, Manifest
from mlserve.backend import Batching, Runner, RunsOn, require_one_length
from mlserve.deadline import Deadline
from mlserve.errors import ExportError, InvalidInput, ModelLoadFailed
from mlserve.image_input import ImageInput, Layout
from mlserve.image_pipeline.classifier import ImageClassifierRunner
from mlserve.image_pipeline.jpeg import accurate, decode_jpeg
from mlserve.image_pipeline.steps import DEFAULT_DECODING, Array, Decoding, ImageSteps
from mlserve.load_options import JpegChoice, LoadOptions
from mlserve.pipeline import Exif, ImagePipeline
from mlserve.precision import Precision
from mlserve.preprocessing import VERSION_1
from mlserve.sources import How, Kind
from mlserve.system import usable_cpus
from mlserve.tensors import DEFAULT_SIGNATURE, DType, Signature, TensorSpec
from mlserve_torch.device import CUDA, device_for, set_up
from mlserve_torch.gpu_jpeg import NvJpeg
from mlserve_torch.graph import id_limits
from mlserve_torch.graphs import CudaCapture
from mlserve_torch.instances import Instances
from mlserve_torch.program import Program, opened, to_numpy, to_torch
from mlserve_torch.resizing import Resizing, Unresized

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_log = logging.getLogger(__name__)


def load_runner(artifact: Artifact, file: Path, options: LoadOptions) -> Runner:
    """Load the model; one that mlserve exported with an image pipeline is warmed up, too.

    Raises ModelLoadFailed, and PluginError for a device that is not there.
    """
    device = device_for(options.device)
    program = _opened(artifact, file, device, options)
    pipeline = artifact.manifest.pipeline if artifact.manifest else None
    if pipeline is None:
        if options.jpeg_decoder is not None:
            _log.warning(
                "--jpeg-decoder has no effect on %s: the model takes tensors", artifact.path
            )
        return TorchRunner(
            program, _instances(artifact, program, device, options), _precision(artifact)
        )
    pixels, decoding = _pixel_program(artifact, pipeline, program, device, options)
    return ImageClassifierRunner(artifact, pipeline, pixels, decoding)


def load_steps(artifact: Artifact, file: Path, options: LoadOptions) -> ImageSteps:
    """Load the steps of a classifier that mlserve exported. Raises ModelLoadFailed."""
    pipeline = artifact.manifest.pipeline if artifact.manifest else None
    if pipeline is None:
        raise ModelLoadFailed(
            f"{artifact.path} has no image pipeline: mlserve did not export it as a classifier",
            hint="export the model: mlserve export --backend torch",
        )
    device = device_for(options.device)
    program = _opened(artifact, file, device, options)
    pixels, decoding = _pixel_program(artifact, pipeline, program, device, options)
    return ImageSteps(pipeline, pixels, decoding)


def _opened(artifact: Artifact, file: Path, device: torch.device, options: LoadOptions) -> Program:
    set_up()
    inputs, outputs = _described(artifact)
    try:
        return opened(
            file,
            device,
            inputs,
            outputs,
            allow_pickle=options.allow_pickle,
            allow_ops=options.allow_unsafe_ops,
        )
    except ExportError as error:
        raise ModelLoadFailed(error.message, hint=error.hint or EXPORT_AGAIN) from error


def _instances(
    artifact: Artifact, program: Program, device: torch.device, options: LoadOptions
) -> Instances:
    capture = partial(CudaCapture, device) if device.type == CUDA else None
    is_padded = has_independent_rows(artifact.manifest)
    return Instances(program, device, options, is_padded=is_padded, capture=capture)


def has_independent_rows(manifest: Manifest | None) -> bool:
    """Return whether the export has seen that a row's answer is the same beside any others."""
    if manifest is None or manifest.has_dependent_rows:
        return False
    if manifest.kind is Kind.IMAGE_CLASSIFIER:
        return True  # else it would not have been exported as one
    rows = manifest.facts.get("rows")
    return rows is not None and rows.how is How.FOUND


def _precision(artifact: Artifact) -> Precision:
    """Return that of the export; the types of the weights in the file are what decides."""
    return artifact.manifest.precision if artifact.manifest else Precision.FP32


def _runs_on(instances: Instances, precision: Precision) -> RunsOn:
    device = instances.device
    where = torch.cuda.get_device_name(device) if device.type == CUDA else "CPU"
    return RunsOn(f"PyTorch {torch.__version__}", precision.value, where)


def _described(artifact: Artifact) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    """Return the inputs and outputs that the manifest names: TorchScript does not say them."""
    manifest = artifact.manifest
    if manifest is None:
        return (), ()
    if manifest.pipeline is None:
        (signature,) = manifest.signatures
        return signature.inputs, signature.outputs
    return [TensorSpec.from_json(spec) for spec in manifest.details.get("inputs", ())], ()


class _OnInstances:
    """What each kind of runner leaves to the instances of its program."""

    def __init__(self, instances: Instances, precision: Precision) -> None:
        self._instances = instances
        self.runs_on = _runs_on(instances, precision)

    @property
    def batching(self) -> Batching | None:
        """How requests are best run together."""
        return self._instances.batching

    def limit_threads(self, threads: int) -> None:
        """Let the calls from this thread use at most that many threads; 0 is all."""
        self._instances.limit_threads(threads)

    def close(self) -> None:
        self._instances.close()


class TorchRunner(_OnInstances):
    """Any PyTorch model: one signature, with the program's own inputs and outputs."""

    def __init__(self, program: Program, instances: Instances, precision: Precision) -> None:
        super().__init__(instances, precision)
        self.keeps_state = program.keeps_state
        self._has_rows = program.rows is not None
        self._tensors_of = program.tensors_of
        self._limits = {} if program.graph_module is None else id_limits(program.graph_module)
        self.signatures: Mapping[str, Signature] = {
            DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, program.inputs, program.outputs)
        }

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Return the outputs. Raises what `Instances.run` raises."""
        described = self.signatures[signature]
        if self._has_rows:
            require_one_length(inputs)
        for name, limit in self._limits.items():
            _require_ids(name, inputs[name], limit)
        outputs = self._instances.run(self._tensors_of(inputs), deadline)
        return {
            spec.name: to_numpy(tensor)
            for spec, tensor in zip(described.outputs, outputs, strict=True)
        }


def _require_ids(name: str, ids: np.ndarray[Any, Any], limit: int) -> None:
    is_bad = (ids < 0) | (ids >= limit)
    if is_bad.any():
        place = tuple(int(at) for at in np.argwhere(is_bad)[0])
        raise InvalidInput(
            f"input {name!r} has the id {ids[place]} at {list(place)}; the model knows 0 to "
            f"{limit - 1}",
            hint="prepare the ids with the tokenizer or the table that the model was trained with",
        )


class PixelProgram(_OnInstances):
    """A classifier's program of pixels, as `mlserve.image_pipeline.steps.Forward`."""

    def __call__(self, pixels: Array, deadline: Deadline | None = None) -> Array:
        """Return float32[N, units]. Raises what `Instances.run` raises."""
        (outputs,) = self._instances.run([to_torch(pixels)], deadline)
        return to_numpy(outputs)

    def warm_up(self, black: Array) -> None:
        """Run every instance once. Raises what `Instances.run` raises."""
        self._instances.warm_up([to_torch(black)])


class ImageProgram(_OnInstances):
    """One that also resizes: a `mlserve.image_pipeline.steps.ResizingForward`.

    `instances` run the program that `resizing` returns from `before`.
    """

    def __init__(self, instances: Instances, resizing: Resizing, precision: Precision) -> None:
        super().__init__(instances, precision)
        self._resizing = resizing
        self.decoder = resizing.decoder

    def prepare(self, image: Array) -> Unresized | Array:
        """Return what `of_prepared` needs of uint8[any height, any width, 3]."""
        with self._instances.explaining():
            return self._resizing.prepare(image)

    def of_prepared(
        self, images: Sequence[Unresized | Array], deadline: Deadline | None = None
    ) -> Array:
        """Return float32[N, units]. Raises what `Instances.run` raises."""
        parts = []
        for span in self._instances.spans(len(images)):
            with self._instances.explaining():
                inputs = self._resizing.inputs(images, span)
            parts.append(to_numpy(self._instances.run(inputs, deadline)[0]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def warm_up(self, black: Array) -> None:
        """Run every instance once, and the decoder. Raises what `Instances.run` raises."""
        file = simplejpeg.encode_jpeg(black[0].astype(np.uint8))
        with self._instances.explaining():
            prepared = self.prepare(self.decoder(file))
            inputs = self._resizing.inputs([prepared], range(1))
        self._instances.warm_up(inputs)


def _pixel_program(
    artifact: Artifact,
    pipeline: ImagePipeline,
    program: Program,
    device: torch.device,
    options: LoadOptions,
) -> tuple[PixelProgram | ImageProgram, Decoding]:
    """Return the program as one of float32[N, height, width, depth], whatever layout it has.

    On a GPU it also resizes the images, and all CPUs decode them at the same time. Raises
    ModelLoadFailed when it does not match the manifest's pipeline.
    """
    image = _image_input(artifact, pipeline, program)
    precision = _precision(artifact)

    def call(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        (pixels,) = tensors
        if image.layout is Layout.NCHW:
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
        return [output.float() for output in program.call([pixels])]

    depth = pipeline.preprocessing.depth
    pixels = TensorSpec(image.name, DType.FLOAT32, (None, *pipeline.size, depth))
    own = replace(program, call=call, inputs=(pixels,))
    if device.type != CUDA:
        if options.jpeg_decoder is JpegChoice.GPU:
            NvJpeg(device)  # says what is missing
        pixel_program = PixelProgram(_instances(artifact, own, device, options), precision)
        return pixel_program, DEFAULT_DECODING
    nvjpeg = NvJpeg(device) if options.jpeg_decoder is JpegChoice.GPU else None
    if nvjpeg is not None:
        _log.warning("JPEGs are decoded on %s: the pixels differ a little from others'", device)
    if pipeline.preprocessing != VERSION_1:
        # `Resizing` knows only version 1; any other image is prepared on the CPU.
        decoding = Decoding(nvjpeg or accurate, usable_cpus())
        return PixelProgram(_instances(artifact, own, device, options), precision), decoding
    # Turning an image upright needs its pixels on the CPU.
    is_left = nvjpeg if pipeline.exif is not Exif.APPLY else None
    decode_here = partial(decode_jpeg, limits=pipeline.limits)
    resizing = Resizing(pipeline, device, is_left, decode_here)
    if nvjpeg is not None and is_left is None:
        resizing.decoder = nvjpeg
    decoding = Decoding(nvjpeg or accurate, usable_cpus())
    instances = _instances(artifact, resizing.before(own), device, options)
    return ImageProgram(instances, resizing, precision), decoding


def _image_input(artifact: Artifact, pipeline: ImagePipeline, program: Program) -> ImageInput:
    found = ", ".join(map(str, (*program.inputs, *program.outputs)))
    try:
        ((spec,), (output,)) = program.inputs, program.outputs
        image = _reading(spec, artifact.manifest, pipeline.preprocessing.depth)
        if not image.fits(pipeline, output.shape) or program.rows is None:
            raise ValueError("its sizes differ")
    except ValueError as error:
        raise ModelLoadFailed(
            f"{artifact.path} holds a different model than its manifest says: {found}",
            hint=EXPORT_AGAIN,
        ) from error
    return image


def _reading(spec: TensorSpec, manifest: Manifest | None, depth: int) -> ImageInput:
    """Return the input in the layout that the export found. Raises ValueError for no image."""
    layout = manifest.details.get("layout") if manifest is not None else None
    possible = ImageInput.readings(spec, (depth,))
    readings = [image for image in possible if layout in (None, image.layout.value)]
    if not readings:
        raise ValueError(f"the input is {spec}")
    return readings[0]
