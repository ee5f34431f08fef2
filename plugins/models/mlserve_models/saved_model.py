"""Open SavedModels: as the only function in them that classifies images, or with all signatures."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow as tf
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from mlserve.classifiers import Network, classifier
from mlserve.contract import Evidence, Scale
from mlserve.digests import path_digest
from mlserve.errors import ExportError, bounded
from mlserve.kinds import is_for_tensors
from mlserve.sources import Kind, Model, ModelRequest
from mlserve.tensors import DEFAULT_SIGNATURE
from mlserve.unsafe_ops import require_safe_ops
from mlserve_models import reference
from mlserve_models.names import is_tar
from mlserve_models.sizes import (
    depth_of,
    image_problem,
    image_size,
    scores_problem,
    size_fact,
)
from mlserve_models.temporary import temporary_folder
from mlserve_models.tensor_model import tensor_model
from mlserve_models.tf_graph import Forward, measured

_FILES = ("saved_model.pb", "saved_model.pbtxt")
_HINT = "give the folder that holds saved_model.pb, or a .tar.gz of it"


@dataclass(frozen=True)
class _ImageFunction:
    """A function of one image batch, with the TensorSpec of that batch.

    `outputs` are the sizes of its output; None if the rank is unknown.
    """

    call: Callable[[Any], Any]
    spec: Any
    outputs: Sequence[int | None] | None = None


def open_path(path: Path, request: ModelRequest) -> Model:
    """Open a SavedModel folder, or a tar file of one: as a classifier if it can be one.

    Raises ExportError.
    """
    folder, source, digest = _folder_of(path), f"SavedModel {path}", path_digest(path)
    if request.kind is Kind.TENSORS:  # not loaded here: TensorFlow 1 models need a session
        _require_savedmodel(folder, path)
        require_safe(folder, f"the SavedModel {path}", request)
        return tensor_model(folder, request, source, digest, None)
    loaded = _load(folder, path, request)
    found = _image_function(loaded, source)
    if isinstance(found, ExportError):
        if is_for_tensors(request, found):
            return tensor_model(folder, request, source, digest, found)
        raise found
    return classifier(request, _network(found, loaded, request, source, digest))


def network_of_path(
    path: Path, request: ModelRequest, known: Evidence[Scale] | None = None
) -> Network:
    """Measure the model in a SavedModel folder or a tar file of one.

    `known` is the scale of a model of that name. Raises ExportError.
    """
    loaded = _load(_folder_of(path), path, request)
    return network_of_loaded(loaded, request, f"SavedModel {path}", path_digest(path), known)


def network_of_loaded(
    loaded: Any,
    request: ModelRequest,
    source: str,
    digest: str,
    known: Evidence[Scale] | None = None,
) -> Network:
    """Measure the result of `tf.saved_model.load`. Raises ExportError."""
    function = _image_function(loaded, source)
    if isinstance(function, ExportError):
        raise function
    return _network(function, loaded, request, source, digest, known)


def _network(
    function: _ImageFunction,
    loaded: Any,
    request: ModelRequest,
    source: str,
    digest: str,
    known: Evidence[Scale] | None = None,
) -> Network:
    shape = _sizes(function.spec.shape)
    height, width, channels = image_size(shape, request)
    forward = Forward(function.call, loaded, channels, function.spec.dtype)
    depth = depth_of(channels, request)
    contract = measured(source, forward, (height, width), request, known, depth)
    facts = {"size": size_fact(shape)}
    return Network(
        forward,
        (height, width),
        contract,
        source,
        digest,
        facts=facts,
        depth=depth,
        reference=reference.of_forward(forward),
    )


def require_safe(folder: Path, what: str, request: ModelRequest) -> None:
    """Raise ExportError for a SavedModel with unsafe operations, unless they are allowed."""
    if request.allow_unsafe_ops:
        return
    try:
        saved = parse_saved_model(str(folder))
    except Exception:  # noqa: BLE001  what cannot be read is refused by the loader, which reads it so
        return
    require_safe_ops(what, saved.meta_graphs, ExportError)


def _load(folder: Path, path: Path, request: ModelRequest) -> Any:
    """Load the SavedModel; messages name `path`, the user's own argument."""
    _require_savedmodel(folder, path)
    require_safe(folder, f"the SavedModel {path}", request)
    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow has no common error for damaged SavedModels
        reason = _said_of(path, folder, error)
        raise ExportError(
            f"{path} is a SavedModel that cannot be loaded: {reason}",
            hint="copy the whole folder again, variables/ and assets/ included",
        ) from error


def _require_savedmodel(folder: Path, path: Path) -> None:
    if not folder.is_dir():
        raise ExportError(f"there is no folder {path}", hint=_HINT)
    if not any((folder / name).is_file() for name in _FILES):
        names = sorted(entry.name for entry in folder.iterdir())
        raise ExportError(
            f"{path} is not a SavedModel: it has no saved_model.pb (found: "
            f"{', '.join(names[:8]) or 'nothing'})",
            hint=_HINT,
        )


def _folder_of(path: Path) -> Path:
    """Return the folder itself, or the one in the tar file, unpacked until the process ends.

    A loaded SavedModel reads its assets when it is saved again, so the files must stay.
    """
    if not is_tar(path) or path.is_dir():
        return path
    unpacked = temporary_folder("mlserve-savedmodel-")
    try:
        with tarfile.open(path) as archive:
            archive.extractall(unpacked, filter=_kept)  # noqa: S202  it asks Python's own
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = _said_of(path, unpacked, error)
        raise ExportError(f"{path} cannot be unpacked: {reason}", hint=_HINT) from error
    inside = list(unpacked.iterdir())
    is_wrapped = len(inside) == 1 and inside[0].is_dir()
    return inside[0] if is_wrapped else unpacked


def _said_of(path: Path, folder: Path, error: Exception) -> str:
    """Return the error's class and text, naming the user's file, not the temporary folder."""
    return f"{type(error).__name__}: {bounded(str(error).replace(str(folder), str(path)))}"


def _kept(member: tarfile.TarInfo, into: str) -> tarfile.TarInfo | None:
    """Apply Python's check of what a tar file may write; None for what macOS adds beside the files.

    These are `._name` (AppleDouble: a file's attributes, which its tar adds to each) and others.
    """
    parts = PurePosixPath(member.name).parts
    if any(part.startswith("._") or part in (".DS_Store", "__MACOSX") for part in parts):
        return None
    return tarfile.data_filter(member, into)


def _image_function(loaded: Any, source: str) -> _ImageFunction | ExportError:
    """Return the function that classifies images, or why there is none."""
    signature = loaded.signatures.get(DEFAULT_SIGNATURE) if hasattr(loaded, "signatures") else None
    function = _of_signature(signature, source) if signature else _of_callable(loaded)
    if function is None:
        found = ", ".join(sorted(getattr(loaded, "signatures", ()))) or "none"
        return ExportError(
            f"{source} has no signature {DEFAULT_SIGNATURE} and cannot be called with "
            f"a batch of images (signatures: {found})",
            hint=f"save it with a signature {DEFAULT_SIGNATURE} of one "
            "float32[N,height,width,3] input",
        )
    if isinstance(function, ExportError):
        return function
    if not function.spec.dtype.is_floating:
        return ExportError(
            f"{source} takes {function.spec.dtype.name}, not float32[N,height,width,3]",
            hint="export the classifier alone, without the decoding of images",
        )
    shape = _sizes(function.spec.shape)
    return image_problem(shape) or scores_problem(function.outputs) or function


def _of_signature(signature: Any, source: str) -> _ImageFunction | ExportError:
    inputs: dict[str, Any] = signature.structured_input_signature[1]
    outputs: dict[str, Any] = signature.structured_outputs
    for kind, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            return ExportError(
                f"the signature {DEFAULT_SIGNATURE} of {source} has {len(found)} {kind}: "
                + ", ".join(sorted(found)),
                hint="export a model that takes one image and gives one row of scores",
            )
    (name, spec), (output, scores) = next(iter(inputs.items())), next(iter(outputs.items()))
    return _ImageFunction(
        lambda images: signature(**{name: images})[output], spec, _sizes(scores.shape)
    )


def _of_callable(loaded: Any) -> _ImageFunction | None:
    """Return the object itself if it was saved with a `__call__` of one batch of images."""
    restored = getattr(loaded, "__call__", None)  # noqa: B004 - the function that was saved
    for concrete in getattr(restored, "concrete_functions", ()):
        arguments = tf.nest.flatten(concrete.structured_input_signature)
        specs = [item for item in arguments if isinstance(item, tf.TensorSpec)]
        is_training = any(item is True for item in arguments)
        if len(specs) == 1 and not is_training:
            return _ImageFunction(loaded, specs[0])
    return None


def _sizes(shape: Any) -> Sequence[int | None] | None:
    return None if shape.rank is None else tuple(shape.as_list())
