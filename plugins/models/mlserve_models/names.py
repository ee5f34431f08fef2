"""Known model names, the file type of a path, and digests of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlserve.artifact import digest_of
from mlserve.contract import SYMMETRIC, UNIT, Evidence, Scale

EFFICIENTNET_LITE0 = "efficientnet_lite0"


@dataclass(frozen=True)
class HubModel:
    """An image classifier on TF-Hub, and the Keras application of the same architecture.

    `path` is below the hub's base URL. The hub's module returns logits for pixels in [0,1]
    (`scale`); the Keras application returns probabilities of `keras_classes` for `keras_scale`.
    """

    path: str
    size: int
    units: int
    keras_name: str
    scale: Scale = UNIT
    keras_scale: Scale = SYMMETRIC
    keras_classes: int = 1000

    @property
    def known_scale(self) -> Evidence[Scale]:
        """Return the scale that the hub's modules expect."""
        return Evidence(self.scale, "image modules of TF-Hub take 0..1")

    @property
    def known_keras_scale(self) -> Evidence[Scale]:
        """Return the scale that the Keras application expects without a scaling of its own."""
        return Evidence(self.keras_scale, f"keras.applications.{self.keras_name} takes -1..1")


HUB_MODELS = {
    "inception_v3": HubModel(
        "google/imagenet/inception_v3/classification/5", 299, 1001, "InceptionV3"
    ),
}


def is_named(model: str) -> bool:
    """Return whether this plugin knows a model of that name; no user file may take it."""
    return model in HUB_MODELS or model == EFFICIENTNET_LITE0


def is_keras_file(path: Path | None) -> bool:
    """Return whether the path has a Keras file's extension."""
    return path is not None and path.suffix in (".keras", ".h5", ".hdf5") and not path.is_dir()


def is_savedmodel(path: Path | None) -> bool:
    """Return whether the path is a folder, or named like a tar file of one."""
    return path is not None and (path.is_dir() or is_tar(path))


def is_tar(path: Path) -> bool:
    """Return whether the path is named like a compressed tar file."""
    return path.name.endswith((".tar.gz", ".tgz"))


_IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """Return the first name of each of the 1000 ImageNet classes in the usual order (339: sorrel).

    From the PyPI package imagenet-classes.
    """
    from imagenet_classes import get_1k_class_name

    names = (get_1k_class_name(index) for index in range(_IMAGENET_CLASSES))
    return tuple(name.split(",")[0].strip() for name in names)


def random_digest(architecture: str, seed: int) -> str:
    """Return a `sha256:<hex>` for the random weights of that architecture and seed."""
    return digest_of(f"random weights of {architecture}, seed {seed}".encode())
