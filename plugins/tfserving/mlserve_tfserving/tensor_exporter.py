"""Write a model of tensors as a SavedModel: a copy of the files that TensorFlow reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlserve.errors import ExportError, ModelLoadFailed
from mlserve.sources import TensorModel
from mlserve.system import usable_cpus
from mlserve.tensors import Signature
from mlserve_tfserving.loading import BINARY, TEXT, load_model
from mlserve_tfserving.warmup import PLACE

_SINGLE = (BINARY, TEXT, "fingerprint.pb", PLACE.as_posix())
_FOLDERS = ("variables", "assets")


def copy_saved_model(model: TensorModel, into: Path) -> Sequence[Signature]:
    """Copy the SavedModel in the folder `model.content` and return the signatures that it serves.

    Anything else in that folder stays behind. Raises ExportError for a SavedModel that TensorFlow
    cannot load, and OSError.
    """
    folder = Path(str(model.content))
    for path in _files(folder):
        copy = into / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    try:
        # The model source has refused unsafe operations, unless the user allows them.
        return tuple(load_model(into, usable_cpus(), allow_unsafe_ops=True).signatures.values())
    except ModelLoadFailed as error:
        raise ExportError(
            error.message.replace(str(into), str(folder)),
            hint="copy the whole folder again, variables/ and assets/ included",
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of the SavedModel; a link, as in the caches of model hubs, is its target."""
    yield from (folder / name for name in _SINGLE if (folder / name).is_file())
    for name in _FOLDERS:
        yield from (path for path in sorted((folder / name).rglob("*")) if path.is_file())
