"""`mlserve export`: turn a model into files that a runtime serves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlserve.cli import completion
from mlserve.cli.arguments import StoreOption, names_in
from mlserve.cli.export_report import report, shown_progress
from mlserve.cli.output import OutputFormat, OutputOption, prints_go_to_stderr
from mlserve.cli.pixel_arguments import (
    AntialiasOption,
    ChannelsOption,
    CropOption,
    FillOption,
    InterpolationOption,
    MeanOption,
    PreprocessorOption,
    ResizeOption,
    StdOption,
    parse_fill,
    parse_mean,
    parse_resize,
    parse_std,
    require_fraction,
)
from mlserve.errors import UsageError
from mlserve.pipeline import DEFAULT_TOP_K, Exif
from mlserve.precision import MIN_AGREEMENT, Precision
from mlserve.settings import DEFAULT_BACKEND
from mlserve.sources import DEFAULT_MODEL, RANDOM_WEIGHTS, Kind
from mlserve.tensors import TensorSpec


class LayoutChoice(StrEnum):
    """Values of `--layout`."""

    NCHW = "nchw"
    NHWC = "nhwc"


class ActivationChoice(StrEnum):
    """Values of `--activation`."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    NONE = "none"


def export(
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The runtime to export for; `mlserve plugins` lists them. Default: the one that "
            f"takes the file in --weights, or {DEFAULT_BACKEND} if several do.",
            autocompletion=completion.backends,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The model to export, and the name it will be served under.",
            autocompletion=completion.models,
        ),
    ] = DEFAULT_MODEL,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DIR|URL|random",
            help="Your own model: a .keras, .h5, .hdf5, .onnx, .pt2 or .skops file, a SavedModel "
            "folder, or another kind that `mlserve plugins` lists; or its address: https://, "
            "s3://, gs://, hf://, and models:/ or runs:/ of MLflow. `random` makes random weights, "
            "for speed tests only. Default: those published for --model.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Labels in the order of the outputs: one a line; or JSON: a list, "
            '{"0": "cat", ...}, or a config.json with id2label. Default: those published for '
            "--model.",
        ),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HEX",
            help="The SHA-256 digest that --weights must have. At the end of any address, "
            "#sha256=HEX says the same.",
            show_default=False,
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Fetch nothing: take what was fetched before from the cache.",
        ),
    ] = False,
    background: Annotated[
        bool,
        typer.Option(
            "--background",
            help="Class 0 is a background class that is not in the labels.",
        ),
    ] = False,
    input_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            metavar="N",
            help="Width and height of the input, in pixels. Default: what the model says.",
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="MIN..MAX",
            help="What the pixel values 0 and 255 become: 0..1, -1..1 or 0..255. Default: found in "
            "the model; required if the model does not tell.",
        ),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    interpolation: InterpolationOption = None,
    antialias: AntialiasOption = None,
    channels: ChannelsOption = None,
    fill: FillOption = None,
    preprocessor: PreprocessorOption = None,
    layout: Annotated[
        LayoutChoice | None,
        typer.Option(
            help="The order of the axes of an ONNX model that does not fix them: nchw is "
            "[N,3,height,width], nhwc is [N,height,width,3]. Default: found in the model; required "
            "if the model does not tell."
        ),
    ] = None,
    activation: Annotated[
        ActivationChoice | None,
        typer.Option(
            help="What to apply to the model's outputs: softmax or sigmoid to logits, none to "
            "scores. Default: found in the model; required if the model does not tell."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The version to write. Default: the next one."),
    ] = None,
    store: StoreOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="K",
            help=f"The number of labels in a top_k answer. Default: {DEFAULT_TOP_K}.",
        ),
    ] = None,
    exif: Annotated[
        Exif,
        typer.Option(
            help="Whether to turn images by the orientation that a camera wrote into them; "
            "tfserving cannot apply it."
        ),
    ] = Exif.IGNORE,
    allow_unsafe_ops: Annotated[
        bool,
        typer.Option(
            "--allow-unsafe-ops",
            help="Export a SavedModel whose graph can read and write files, or run Python: only "
            "if you trust whoever made it.",
        ),
    ] = False,
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="What the model is served as: image-classifier takes image files and gives "
            "labels; tensors keeps the inputs and outputs that the model has. Default: "
            "image-classifier if the model has one input of images and one output of scores.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME:DTYPE[SHAPE]",
            help="An input of a model whose file does not describe it, such as "
            "`x:float32[?,4]`; once for each, in order.",
            show_default=False,
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Open a pickle or joblib file, which can run any code when it is read: only if "
            "you trust whoever made it.",
        ),
    ] = False,
    trusted_types: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Types that the model's file may hold, besides those that are known to be safe; "
            "separated by commas.",
            show_default=False,
        ),
    ] = None,
    allow_version_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-version-mismatch",
            help="Open a model that another version of its library wrote.",
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**31 - 1, metavar="N", help="The seed of `--weights random`: 0 if left out."
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="The type of number that the runtime computes with. Below fp32 an export is "
            "faster on many CPUs; its answers are measured against the model's own, and it is "
            "refused if they differ too often.",
        ),
    ] = Precision.FP32,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="For int8: images, or a table of rows, like those in use, to measure the ranges "
            "of the model's numbers on. In folders named by label they also say what is right.",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Images, or a table of rows, to measure the agreement with the model's own "
            "answers on. Default: a fifth of --calibration, which is then not calibrated on; "
            "without that, the golden inputs.",
            show_default=False,
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Images, or a table of rows, for the certificate: a server of this version is to "
            "answer them as the model itself does. Each is kept in the version's folder. Default: "
            "16 that are made up.",
            show_default=False,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The least share of these inputs, 0 to 1, that must get the model's own answer; "
            f"below it, nothing is exported. Default: {MIN_AGREEMENT:g}.",
            show_default=False,
        ),
    ] = None,
    not_idempotent: Annotated[
        bool,
        typer.Option(
            "--not-idempotent",
            help="Say that a request must not run twice, as the model keeps state or acts on "
            "something: a server of several replicas then does not ask again for a request whose "
            "replica has died.",
        ),
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Export a model: an image classifier with its whole pipeline, any other model as it is.

    The pipeline is decode, resize, scale, model, labels. Prints the folder of the new version. An
    existing version is never overwritten.

    For example:

    mlserve export

    mlserve export --model efficientnet_lite0

    mlserve export --model defects --weights defects.keras --labels labels.txt --scale -1..1

    mlserve export --model houses --weights houses.keras

    mlserve export --backend onnxruntime --precision int8 --calibration photos/

    mlserve export --model vit --weights vit.onnx --labels vit.txt --antialias --mean 0.5 --std 0.5

    mlserve export --model birds --weights birds.onnx --preprocessor preprocessor_config.json
    """
    from mlserve import export as exporting
    from mlserve.pixel_options import PixelOptions
    from mlserve.sources import ModelRequest

    mode, size = (None, None) if resize is None else parse_resize(resize)
    pixels = PixelOptions(
        channels=channels,
        mode=mode,
        size=size,
        crop=None if crop is None else require_fraction(crop),
        interpolation=interpolation,
        antialias=antialias,
        fill=() if fill is None else parse_fill(fill),
        mean=() if mean is None else parse_mean(mean),
        std=() if std is None else parse_std(std),
    )
    request = ModelRequest(
        model=model,
        weights=weights,
        labels=labels,
        input_size=input_size,
        scale=None if scale is None else parse_scale(scale),
        top_k=top_k,
        seed=_seed(seed, weights),
        activation=None if activation is None else activation.value,
        layout=None if layout is None else layout.value,
        has_background=background,
        exif=exif,
        allow_unsafe_ops=allow_unsafe_ops,
        kind=kind,
        inputs=tuple(parse_spec(text) for text in inputs or ()),
        allow_pickle=allow_pickle,
        trusted_types=tuple(filter(None, names_in(trusted_types) or ())),
        allow_version_mismatch=allow_version_mismatch,
        pixels=pixels,
        sha256=sha256,
        offline=offline,
        preprocessor=preprocessor,
        precision=precision,
        calibration=calibration,
        held_out=held_out,
        min_agreement=min_agreement,
        golden=golden,
        idempotent=not not_idempotent,
    )
    with prints_go_to_stderr(), shown_progress() as progress:
        artifact = exporting.export(
            request, backend, store=store, version=version, progress=progress
        )
    report(artifact, store, output, are_labels_given=labels is not None)


def _seed(seed: int | None, weights: str | None) -> int:
    """Return the seed of random weights. Raises UsageError if it is given for other weights."""
    if seed is not None and weights != RANDOM_WEIGHTS:
        raise UsageError(
            f"--seed {seed} has no effect: only --weights random draws weights from a seed",
            hint="leave --seed out, or add --weights random",
        )
    return seed or 0


def parse_spec(text: str) -> TensorSpec:
    """Parse `NAME:DTYPE[SHAPE]`, as `metadata` prints it. Raises UsageError."""
    try:
        return TensorSpec.from_text(text)
    except ValueError as error:
        raise UsageError(
            f"--input {text!r} does not describe an input: {error}",
            hint="give its name, type and sizes, with ? for the batch: --input 'x:float32[?,4]'",
        ) from error


def parse_scale(text: str) -> tuple[float, float]:
    """Parse `MIN..MAX`. Raises UsageError unless both are finite and differ."""
    low, separator, high = text.partition("..")
    try:
        pair = (float(low), float(high))
    except ValueError:
        separator = ""
    if not separator or not all(abs(number) <= _LARGEST for number in pair) or pair[0] == pair[1]:
        raise UsageError(
            f"--scale {text!r} is not a range of two different numbers",
            hint="say what pixel values 0 and 255 become: --scale 0..1, -1..1 or 0..255",
        )
    return pair


_LARGEST = 1e6
