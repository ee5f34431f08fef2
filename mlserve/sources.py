"""Where models come from: the contract between a model source and the backends that export it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlserve.pipeline import Exif, ImagePipeline

RANDOM_WEIGHTS = "random"

Progress = Callable[[str, int, int | None], None]
"""Called as `progress(what, done, total)` in bytes or steps; total is None when unknown."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What the user asked to export. None means: the source's own default.

    `scale` is the pair of values that pixel 0 and pixel 255 become.
    """

    model: str
    weights: str | None = None
    labels: Path | None = None
    input_size: int | None = None
    scale: tuple[float, float] | None = None
    top_k: int = 5
    seed: int = 0
    exif: Exif = Exif.IGNORE

    @property
    def is_random(self) -> bool:
        return self.weights == RANDOM_WEIGHTS

    @property
    def weights_path(self) -> Path | None:
        """The file or folder given as weights, if one was."""
        return None if self.weights is None or self.is_random else Path(self.weights)


@dataclass(frozen=True, slots=True)
class Classifier:
    """An image classifier in memory, ready for a backend to export.

    With `framework` "tensorflow", `forward` is a `tf.Module` that is called with float32[N, height,
    width, 3] (already scaled) and returns float32[N, classes]; with "onnx" it is the path of an
    ONNX file that does the same. It is typed Any because core imports no framework.
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
