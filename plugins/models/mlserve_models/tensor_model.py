"""Describe a SavedModel as a model of tensors: the signatures that its file declares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.python.saved_model.loader_impl import parse_saved_model

from mlserve.errors import ExportError, bounded
from mlserve.kinds import kind_fact
from mlserve.sources import ModelRequest, TensorModel
from mlserve.tensors import Signature
from mlserve.wire.signature_defs import read_signature
from mlserve_models import reference

_SERVE = "serve"


def tensor_model(
    folder: Path, request: ModelRequest, source: str, digest: str, problem: ExportError | None
) -> TensorModel:
    """Return the model in a SavedModel folder, with all signatures that can be served.

    `problem` says why it is not an image classifier; None if the user asked for tensors. Raises
    ExportError when the file cannot be read or has no such signature.
    """
    signatures = tuple(_signatures(folder, source))
    if not signatures:
        raise problem or ExportError(
            f"{source} has no signature that can be served",
            hint="save it with tf.saved_model.save(module, folder, signatures=...)",
        )
    return TensorModel(
        name=request.model,
        content=folder,
        framework="tensorflow",
        signatures=signatures,
        source=source,
        weights_digest=digest,
        facts={"kind": kind_fact(request, problem)},
        reference=reference.of_folder(folder),
    )


def _signatures(folder: Path, source: str) -> Iterator[Signature]:
    for name, definition in sorted(_definitions(folder, source).items()):
        try:
            yield read_signature(name, definition)
        except ValueError:  # an initializer, or a tensor that no request can carry
            continue


def _definitions(folder: Path, source: str) -> Any:
    try:
        graphs = parse_saved_model(str(folder)).meta_graphs
    except Exception as error:  # TensorFlow has no common error for damaged files
        raise ExportError(
            f"{source} cannot be read: {bounded(str(error))}",
            hint="copy the whole folder again, variables/ and assets/ included",
        ) from error
    served = [graph for graph in graphs if list(graph.meta_info_def.tags) == [_SERVE]]
    return served[0].signature_def if served else {}
