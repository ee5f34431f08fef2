"""Where models come from: the contract between a model source and the backends that export it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mlserve.facts import Facts
from mlserve.labels import read_labels
from mlserve.pipeline import Exif, ImagePipeline

RANDOM_WEIGHTS = "random"

Progress = Callable[[str, int, int | None], None]
"""Called as `progress(what, done, total)` in bytes or steps; total is None when unknown."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the user asked to export. None means: the source's own default.

    `labels` are the labels themselves, or a file of them. `has_background` says that class 0 of the
    model is a background class that the labels do not list. `scale` is the pair of values that
    pixel 0 and pixel 255 become. `activation` is what is still to be applied to the model's
    outputs: softmax, sigmoid or none. `layout` is nchw or nhwc. `allow_unsafe_ops` opens models
    that can do more than compute (`mlserve.unsafe_ops`).
    """

    model: str
    weights: str | None = None
    labels: Path | tuple[str, ...] | None = None
    input_size: int | None = None
    scale: tuple[float, float] | None = None
    top_k: int = 5
    seed: int = 0
    activation: str | None = None
    layout: str | None = None
    has_background: bool = False
    exif: Exif = Exif.IGNORE
    allow_unsafe_ops: bool = False

    @property
    def is_random(self) -> bool:
        return self.weights == RANDOM_WEIGHTS

    @property
    def weights_path(self) -> Path | None:
        """The file or folder given as weights, if one was."""
        return None if self.weights is None or self.is_random else Path(self.weights)

    def given_labels(self) -> tuple[str, ...] | None:
        """The labels that the user gave, read where they are in a file. Raises as `read_labels`."""
        return read_labels(self.labels) if isinstance(self.labels, Path) else self.labels


@dataclass(frozen=True, slots=True)
class Classifier:
    """An image classifier in memory, ready for a backend to export.

    With `framework` "tensorflow", `forward` is a `tf.Module` that is called with float32[N, height,
    width, 3] (already scaled) and returns float32[N, classes]; with "onnx" it is the path of an
    ONNX file that does the same, or the loaded ModelProto. It is typed Any because core imports no
    framework. `facts` say how size, scale and activation are known.
    `labels` are those of the manifest: without the background class when `pipeline.class_offset`
    is 1. `weights_digest` is `sha256:<hex>` of the weights' bytes.
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


class ModelSource(ABC):
    """One place that models come from, such as TF-Hub or a Keras file.

    The class itself must be cheap to import: what it needs is imported inside `open`.
    """

    name: ClassVar[str]
    """What the source is called in `mlserve plugins`."""
    summary: ClassVar[str]
    """One line for `mlserve plugins`."""
    install_hint: ClassVar[str]
    """The command that installs what `open` needs."""
    models: ClassVar[tuple[str, ...]] = ()
    """The models it knows by name; empty for a source of the user's own files."""
    framework: ClassVar[str] = "tensorflow"
    """The `Classifier.framework` of what `open` gives."""
    requires: ClassVar[tuple[str, ...]] = ()
    """The modules `open` imports; `mlserve plugins` says which are absent."""

    def download(self, model: str) -> str | None:
        """The URL that `open` would fetch this model of its own from; None when nothing is fetched.

        Nothing is imported or asked for it. This default is for sources that fetch nothing.
        """
        return None

    @abstractmethod
    def accepts(self, request: ModelRequest) -> bool:
        """Whether this source can open that request, told from names and file types alone."""

    @abstractmethod
    def open(self, request: ModelRequest, progress: Progress) -> Classifier:
        """The model that was asked for.

        Raises ExportError when it cannot be had, with the ways on as the hint.
        """
