"""Model sources: the interface between where models come from and the backends that export them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from mlserve.errors import PluginError, bounded
from mlserve.labels import read_labels
from mlserve.pipeline import Exif, ImagePipeline
from mlserve.pixel_options import PixelOptions
from mlserve.precision import Precision
from mlserve.tensors import Signature, TensorSpec

DEFAULT_MODEL = "inception_v3"


class Kind(StrEnum):
    """What a model is for its users."""

    IMAGE_CLASSIFIER = "image-classifier"
    """Image files in, labels out: mlserve adds the image pipeline and the labels."""
    TENSORS = "tensors"
    """The inputs and outputs that the model itself has."""


class How(StrEnum):
    """How a fact about a model is known."""

    GIVEN = "given"
    """The user said so."""
    FOUND = "found"
    """The model says so, or it was measured by running the model."""
    ASSUMED = "assumed"
    """Not stated anywhere, and without a measurable effect."""


@dataclass(frozen=True, slots=True)
class Fact:
    """How one property of a model is known, and why; `warning` is the evidence against it."""

    how: How
    why: str = ""
    warning: str = ""

    def __str__(self) -> str:
        words = {How.FOUND: "found in the model", How.ASSUMED: "assumed"}.get(self.how, "given")
        return f"{words}: {self.why}" if self.why else words

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Fact:
        """Read the output of `to_json`. Raises ValueError and KeyError for anything else."""
        return cls(How(data["how"]), str(data.get("why", "")), str(data.get("warning", "")))


Facts = Mapping[str, Fact]
"""Facts by subject: `size`, `layout`, `scale`, `activation`; if anything was said about pixels also
`channels`, `resize`, `interpolation`, `antialias`, and what was given of `crop`, `fill`, `mean` and
`std`; of a model of tensors `kind`, `inputs` and `rows`."""


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Return the facts as stored in the manifest."""
    return {name: fact.to_json() for name, fact in facts.items()}


def facts_from_json(data: Mapping[str, Any]) -> Facts:
    """Read the output of `facts_to_json`. Raises what `Fact.from_json` raises."""
    return {name: Fact.from_json(item) for name, item in data.items()}


RANDOM_WEIGHTS = "random"

Progress = Callable[[str, int, int | None], None]
"""Called as `progress(what, done, total)` in bytes or steps; total is None when unknown."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the user asked to export. None means the source's default.

    `weights` and `labels` may be addresses (`mlserve.remote`); a model source only sees paths.
    `labels` are the labels themselves, or a file of them. `has_background` means that class 0 of
    the model is a background class that the labels do not list. `scale` holds the values for pixel
    0 and pixel 255. `activation` is what is still to be applied to the model's outputs: softmax,
    sigmoid or none. `layout` is nchw or nhwc. `allow_unsafe_ops` opens models that can do more than
    compute (`mlserve.unsafe_ops`); `allow_pickle` opens files that can run code when they are read,
    and `trusted_types` are names of types that such a file may hold without it;
    `allow_version_mismatch` opens files that another version of their library wrote. `inputs`
    describes the inputs of a model whose file does not. `pixels` says how images were prepared in
    training, where that differs from version 1 of the image pipeline; `preprocessor` names a file
    or a model of a library that says so (`mlserve.preprocessors.choice`), and everything that is
    given besides takes precedence. `labels_origin` says where labels that nobody gave come from.
    `sha256` is the digest that the weights must have; `offline` takes addresses from the cache and
    fetches nothing. `precision` is what the model is exported in; `calibration` and `held_out` are
    images or rows to quantise it on and to measure its agreement with the reference on, which must
    be at least `min_agreement`; `golden` are those of its certificate. `idempotent` False says that
    a request must not run twice.
    """

    model: str
    weights: str | None = None
    labels: Path | str | tuple[str, ...] | None = None
    input_size: int | None = None
    scale: tuple[float, float] | None = None
    top_k: int | None = None
    seed: int = 0
    activation: str | None = None
    layout: str | None = None
    has_background: bool = False
    exif: Exif = Exif.IGNORE
    allow_unsafe_ops: bool = False
    kind: Kind | None = None
    inputs: tuple[TensorSpec, ...] = ()
    allow_pickle: bool = False
    allow_version_mismatch: bool = False
    trusted_types: tuple[str, ...] = ()
    pixels: PixelOptions = field(default_factory=PixelOptions)
    sha256: str | None = None
    offline: bool = False
    preprocessor: str | None = None
    labels_origin: str = ""
    precision: Precision = Precision.FP32
    calibration: Path | None = None
    held_out: Path | None = None
    min_agreement: float | None = None
    golden: Path | None = None
    idempotent: bool = True

    @property
    def is_random(self) -> bool:
        return self.weights == RANDOM_WEIGHTS

    @property
    def open_size(self) -> tuple[int, int] | tuple[None, None]:
        """Return (height, width) for a model that leaves them open; None if nobody said them."""
        if self.input_size is not None:
            return self.input_size, self.input_size
        return self.pixels.input or (None, None)

    @property
    def weights_path(self) -> Path | None:
        """Return the file or folder given as weights, if any."""
        return None if self.weights is None or self.is_random else Path(self.weights)

    def given_labels(self) -> tuple[str, ...] | None:
        """Return the user's labels, read from the file if it is one. Raises as `read_labels`."""
        if isinstance(self.labels, str | Path):
            return read_labels(Path(self.labels))
        return self.labels


PIXELS = "pixels"
"""The signature of a classifier's Reference: `images` float32[N, height, width, depth], prepared by
the pipeline, to `outputs` float32[N, units], before the activation."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A model in the framework that trained it, in fp32: the answers that others are held to.

    `framework` names it with its version. `run` takes a signature's name and arrays by name, and
    returns arrays by name; of a classifier the only signature is PIXELS. It raises what
    `Runner.run` raises. `probes` are inputs of the only signature, some rows that it takes and that
    tell conversions apart; None if inputs must be made up.
    """

    framework: str
    run: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
    probes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Classifier:
    """An image classifier in memory, ready for a backend to export.

    With `framework` "tensorflow", `forward` is a `tf.Module` that is called with float32[N, height,
    width, depth], what the pipeline makes of images, and returns float32[N, classes]; with "onnx"
    it is the path of an ONNX file that does the same, or the loaded ModelProto. It is typed Any
    because core imports no framework. `facts` say how size, pixels and activation are known.
    `labels` are those of the manifest: without the background class when `pipeline.class_offset` is
    1. `weights_digest` is `sha256:<hex>` of the weights' bytes. `details` are those of TensorModel.
    `reference` gives the answers that the export is held to; without one it gets no certificate.
    """

    name: str
    forward: Any
    pipeline: ImagePipeline
    labels: tuple[str, ...]
    source: str
    weights_digest: str
    has_random_weights: bool = False
    framework: str = "tensorflow"
    facts: Facts = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class TensorModel:
    """A model of tensors in memory, ready for a backend to export: no pipeline, no labels.

    What `content` is depends on `framework`, and each source that opens one says so; it is typed
    Any because core imports no framework. With "tensorflow" it is the path of a SavedModel folder,
    with "onnx" that of an ONNX file. `signatures` are those that the export must serve; a backend
    may name outputs in its own way if its runtime does. `columns` names the columns of an input
    that is a matrix [N, columns], so that tables can be sent by column name. `libraries` are the
    versions of the libraries that the model was trained or saved with, and `details` what else the
    framework's backends need to know; both are JSON and kept in the manifest. `reference` is that
    of Classifier.
    """

    name: str
    content: Any
    framework: str
    signatures: tuple[Signature, ...]
    source: str
    weights_digest: str
    has_random_weights: bool = False
    facts: Facts = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None


Model = Classifier | TensorModel
"""A model in memory."""

SOME_USE = {
    "inputs": "--input",
    "allow_pickle": "--allow-pickle",
    "trusted_types": "--trusted-types",
    "allow_version_mismatch": "--allow-version-mismatch",
}
"""The fields of ModelRequest that only some sources use, and the option of each."""


class ModelSource(ABC):
    """A place that models come from, such as TF-Hub or a Keras file.

    The class itself must be cheap to import: what it needs is imported inside `open`.
    """

    name: ClassVar[str]
    """Its name in `mlserve plugins`."""
    summary: ClassVar[str]
    """One line for `mlserve plugins`."""
    install_hint: ClassVar[str]
    """The command that installs the packages `open` needs."""
    models: ClassVar[tuple[str, ...]] = ()
    """The models it knows by name; empty for a source of the user's own files."""
    file_types: ClassVar[tuple[str, ...]] = ()
    """The types of the user's own files that it opens, as a hint names them: `.onnx`."""
    framework: ClassVar[str] = "tensorflow"
    """The `framework` of the models it opens."""
    kinds: ClassVar[tuple[Kind, ...]] = tuple(Kind)
    """The kinds of model that it opens; `--kind` selects one."""
    options: ClassVar[tuple[str, ...]] = ()
    """The fields of ModelRequest in `SOME_USE` that `open` uses; the others are refused."""
    requires: ClassVar[tuple[str, ...]] = ()
    """The modules `open` imports; `mlserve plugins` lists the absent ones."""
    preprocessors: ClassVar[tuple[str, ...]] = ()
    """The libraries that `preprocessing_of` can ask: `timm`, as in `--preprocessor timm:NAME`."""

    def download(self, model: str) -> str | None:
        """Return the URL that `open` would fetch this model from; None if nothing is fetched.

        Imports nothing and sends no request. This default is for sources that fetch nothing.
        """
        return None

    def preprocessing_of(self, library: str, name: str) -> Mapping[str, Any]:
        """Return what one of `preprocessors` says about the images of a model, as plain data.

        The readers in `mlserve.preprocessors` say which. Downloads nothing. Raises PluginError
        without the library, and UsageError for a model that it does not know. This default is for
        sources without `preprocessors`.
        """
        raise PluginError(
            f"the model source {self.name} does not ask {library} about {bounded(name)!r}",
            hint="give the model's preprocessor_config.json instead: --preprocessor FILE",
        )

    @abstractmethod
    def accepts(self, request: ModelRequest) -> bool:
        """Return whether this source can open the request, judging by names and file types."""

    @abstractmethod
    def open(self, request: ModelRequest, progress: Progress) -> Model:
        """Open the requested model.

        Raises ExportError when it is unavailable, with the alternatives as its hint.
        """
