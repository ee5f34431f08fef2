"""What the file of a SavedModel says, read without loading the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

SERVE = "serve"
"""The tag of the graph to serve; a SavedModel can hold others, for training say."""
BINARY, TEXT = "saved_model.pb", "saved_model.pbtxt"


def read_meta_graph(folder: Path) -> Any:
    """The MetaGraphDef that is tagged `serve` in the SavedModel of that folder.

    Raises OSError, and protobuf's DecodeError or ParseError for a damaged file, and ValueError
    when no graph has the tag.
    """
    binary = folder / BINARY
    if binary.is_file():
        model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    else:
        model = text_format.Parse((folder / TEXT).read_text(), saved_model_pb2.SavedModel())
    graphs = [graph for graph in model.meta_graphs if list(graph.meta_info_def.tags) == [SERVE]]
    if not graphs:
        tags = [",".join(graph.meta_info_def.tags) for graph in model.meta_graphs]
        raise ValueError(f"no graph is tagged {SERVE!r}; there are: {'; '.join(tags) or 'none'}")
    return graphs[0]
