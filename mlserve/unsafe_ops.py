"""Find operations in a TensorFlow graph that do more than compute: access files, run Python, etc.

A SavedModel is a program. TensorFlow runs whatever operations its graph has, and some of them take
a path from the request: a caller can then read any file that the server may read. So the graph is
checked before it is loaded. The check covers what is reachable from the signatures and the callable
functions, and what runs when the model is loaded. The functions that save and restore variables,
which every SavedModel has, are reachable from neither.

This is duck-typed over TensorFlow's `MetaGraphDef`, as core imports no framework. Operations are
named as in TensorFlow 2.21's registry; a test goes through all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mlserve.errors import MlserveError

FLAG = "--allow-unsafe-ops"
_READS, _WRITES, _BOTH = "reads files", "writes files", "reads and writes files"
_PYTHON = "runs Python code of the process"
_NETWORK = "connects to other machines"
UNSAFE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("ReadFile", "MatchingFiles", "MatchingFilesDataset", "RecordInput"),
            *("WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2"),
            *("TFRecordReader", "TFRecordReaderV2", "LMDBReader", "LMDBDataset"),
            *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "FixedLengthRecordDataset"),
            *("FixedLengthRecordDatasetV2", "TextLineDataset", "TFRecordDataset"),
            *("TFRecordDatasetV2", "CSVDataset", "CSVDatasetV2", "LoadDataset"),
            *("ListSnapshotChunksDataset", "SnapshotChunkDataset", "SnapshotDatasetReader"),
            *("SnapshotNestedDatasetReader", "Restore", "RestoreSlice", "RestoreV2"),
            *("LoadAndRemapMatrix", "GenerateVocabRemapping", "InitializeTableFromTextFile"),
            *("InitializeTableFromTextFileV2",),
        ),
        _READS,
    ),
    **dict.fromkeys(
        (
            *("WriteFile", "Save", "SaveV2", "SaveSlices", "DistributedSave", "SaveDataset"),
            *("SaveDatasetV2", "DatasetToTFRecord", "CreateSummaryFileWriter"),
            *("CreateSummaryDbWriter", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3"),
            *("DebugNanCount", "DebugNumericSummary", "DebugNumericSummaryV2"),
        ),
        _WRITES,
    ),
    **dict.fromkeys(
        (
            *("MergeV2Checkpoints", "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset"),
            *("CacheDatasetV2", "SqlDataset", "FileSystemSetConfiguration"),
        ),
        _BOTH,
    ),
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), _PYTHON),
    **dict.fromkeys(
        (
            *("DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3"),
            *("DataServiceDatasetV4", "RegisterDataset", "RegisterDatasetV2"),
        ),
        _NETWORK,
    ),
    "Abort": "ends the process",
}
"""What each unsafe operation does; the same holds for its `Experimental` variants."""
_BY_ATTRIBUTE = {
    "PrintV2": ("output_stream", _WRITES, ("stdout", "stderr", "log(")),
    "FixedUnigramCandidateSampler": ("vocab_file", _READS, ()),
    "EncodeProto": ("descriptor_source", _READS, ("local://", "bytes://")),
    "DecodeProtoV2": ("descriptor_source", _READS, ("local://", "bytes://")),
}
"""Operations that are unsafe by an attribute: its name, and how its harmless values begin."""
_OF_ASSETS = {"ReadFile": 0, "InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
"""Operations that may read an asset of the model's own, and the index of the path input."""
_TF1_ASSETS = "saved_model_assets"
_USES_OF_PATH = {"VarIsInitializedOp", "AssignVariableOp", "ReadVariableOp"}
_INITIAL_OPS = ("saved_model_main_op", "legacy_init_op")
_RUN_BY_LOADER = ("_initialize", "_create_resource", "_destroy_resource", "__call__")
"""Children of a saved object whose functions are called by the loader or the model's user."""
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, order=True)
class UnsafeOp:
    """An unsafe operation: its type, its node, and what it can do."""

    op: str
    node: str
    does: str


def require_safe_ops(what: str, meta_graphs: Sequence[Any], error: type[MlserveError]) -> None:
    """Raise `error` if one of these `MetaGraphDef` messages has an unsafe operation.

    `what` names the model in the message.
    """
    found = sorted({op for graph in meta_graphs for op in unsafe_ops(graph)})
    if not found:
        return
    shown = "; ".join(
        f"{item.op} (node {item.node[:200]!r}) {item.does}" for item in found[:_MOST_SHOWN]
    )
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    raise error(
        f"{what} can do more than compute: {shown}{more}",
        hint=f"take a model without these operations; if you trust whoever made it, add {FLAG}",
    )


def unsafe_ops(meta_graph: Any) -> Iterator[UnsafeOp]:
    """Yield the unsafe operations that run when the model is loaded or called."""
    walk = _GraphWalk(meta_graph)
    for name in _roots(meta_graph):
        yield from walk.led_to(name)
    for function in _called_functions(meta_graph):
        yield from walk.in_function(function, walk.assets_bound_to(function))


def _roots(meta_graph: Any) -> Iterator[str]:
    """Yield the tensors and nodes that signatures return, and those that run at the start."""
    for signature in meta_graph.signature_def.values():
        for info in signature.outputs.values():
            yield from _tensors_of(info)
    for key in _INITIAL_OPS:
        yield from (
            meta_graph.collection_def[key].node_list.value
            if (key in meta_graph.collection_def)
            else ()
        )


def _tensors_of(info: Any) -> Iterator[str]:
    if info.name:
        yield info.name
    for name in ("values", "indices", "dense_shape"):
        value = getattr(info.coo_sparse, f"{name}_tensor_name")
        if value:
            yield value
    for component in info.composite_tensor.components:
        yield from _tensors_of(component)


def _called_functions(meta_graph: Any) -> Iterator[str]:
    """Yield the functions of saved objects that the loader calls, or that are callable likewise."""
    nodes = meta_graph.object_graph_def.nodes
    for node in nodes:
        for child in node.children:
            if child.local_name in _RUN_BY_LOADER and child.node_id < len(nodes):
                called = nodes[child.node_id]
                yield from called.function.concrete_functions
                if called.bare_concrete_function.concrete_function_name:
                    yield called.bare_concrete_function.concrete_function_name


@dataclass(frozen=True)
class _GraphWalk:
    """The nodes and functions of a graph, each visited once.

    A path is recognised as one of the model's own assets by its origin: the tensor that the loader
    fills in, passed on through the arguments of functions.
    """

    meta_graph: Any
    nodes: dict[str, Any] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    seen: set[object] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.nodes.update((node.name, node) for node in self.meta_graph.graph_def.node)
        library = self.meta_graph.graph_def.library
        self.functions.update((item.signature.name, item) for item in library.function)

    def led_to(self, root: str) -> Iterator[UnsafeOp]:
        """Yield the unsafe nodes that this node of the main graph depends on."""
        assets = _asset_tensors(self.meta_graph, self.nodes)
        waiting = [_node_of(root)]
        while waiting:
            name = waiting.pop()
            if name in self.seen or name not in self.nodes:
                continue
            self.seen.add(name)
            node = self.nodes[name]
            yield from self._of_node(node, self.nodes, assets)
            waiting += map(_node_of, node.input)

    def in_function(self, name: str, assets: frozenset[int]) -> Iterator[UnsafeOp]:
        """Yield the unsafe nodes of a function; the arguments in `assets` are assets."""
        function = self.functions.get(name)
        if function is None or (name, assets) in self.seen:
            return
        self.seen.add((name, assets))
        arguments = function.signature.input_arg
        known = {arguments[number].name for number in assets if number < len(arguments)}
        nodes = {node.name: node for node in function.node_def}
        for node in function.node_def:
            yield from self._of_node(node, nodes, known)

    def assets_bound_to(self, function: str) -> frozenset[int]:
        """Return the arguments of a saved object's function that are bound to assets."""
        graph = self.meta_graph.object_graph_def
        if function not in graph.concrete_functions or function not in self.functions:
            return frozenset()
        bound = graph.concrete_functions[function].bound_inputs
        first = len(self.functions[function].signature.input_arg) - len(bound)
        return frozenset(
            first + place
            for place, number in enumerate(bound)
            if number < len(graph.nodes) and self._is_own_asset(graph.nodes[number])
        )

    def _is_own_asset(self, node: Any) -> bool:
        """Return whether a node of the saved objects is an asset in the model's own folder."""
        files, number = self.meta_graph.asset_file_def, node.asset.asset_file_def_index
        is_asset = node.WhichOneof("kind") == "asset" and number < len(files)
        return is_asset and _is_inside(files[number].filename)

    def _of_node(self, node: Any, nodes: Mapping[str, Any], assets: set[str]) -> Iterator[UnsafeOp]:
        does = _does(node)
        path = _OF_ASSETS.get(node.op)
        is_of_asset = path is not None and _source(node.input[path], nodes) in assets
        if does and not is_of_asset:
            yield UnsafeOp(node.op, node.name, does)
        inputs = [item for item in node.input if not item.startswith("^")]
        handed_on = frozenset(
            place for place, item in enumerate(inputs) if _source(item, nodes) in assets
        )
        called = [node.op] if node.op in self.functions else list(_functions_in(node))
        for function in called:
            yield from self.in_function(function, handed_on)


def _asset_tensors(meta_graph: Any, nodes: Mapping[str, Any]) -> set[str]:
    """Return the nodes of the main graph that hold the path of an asset, filled in by the loader.

    TensorFlow 2 keeps the path in a variable of its own. One with any other use does not count.
    """
    kind = type(type(meta_graph)().asset_file_def.add())
    listed = [*meta_graph.asset_file_def]
    if _TF1_ASSETS in meta_graph.collection_def:
        values = meta_graph.collection_def[_TF1_ASSETS].any_list.value
        listed += [kind.FromString(item.value) for item in values]
    assets = {_node_of(item.tensor_info.name) for item in listed if _is_inside(item.filename)}
    users: dict[str, list[Any]] = {}
    for node in nodes.values():
        for name in dict.fromkeys(map(_node_of, node.input)):
            if name in nodes and nodes[name].op == "VarHandleOp":
                users.setdefault(_variable(nodes[name]), []).append(node)
    for uses in users.values():
        ops = {node.op for node in uses}
        given = [_node_of(node.input[1]) for node in uses if node.op == "AssignVariableOp"]
        if ops <= _USES_OF_PATH and given and set(given) <= assets:
            assets |= {node.name for node in uses if node.op == "ReadVariableOp"}
    signatures = meta_graph.signature_def.values()
    sent = {_node_of(info.name) for item in signatures for info in item.inputs.values()}
    return assets - sent  # supplied by callers


def _is_inside(filename: str) -> bool:
    """Return whether an asset of that name lies in the assets folder."""
    path = PurePosixPath(filename)
    return not path.is_absolute() and ".." not in path.parts


def _variable(handle: Any) -> str:
    """Return a key for the variable: several handles can refer to one."""
    shared: str = handle.attr["shared_name"].s.decode(errors="replace")
    return shared or str(handle.name)


def _does(node: Any) -> str | None:
    """Return what a node's operation can do besides computing; None if nothing."""
    kind = node.op.removeprefix("Experimental")
    if kind in _BY_ATTRIBUTE:
        name, does, harmless = _BY_ATTRIBUTE[kind]
        value = node.attr[name].s.decode(errors="replace") if name in node.attr else ""
        return None if not value or value.startswith(harmless) else does
    return UNSAFE.get(kind)


def _functions_in(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _source(tensor: str, nodes: Mapping[str, Any]) -> str:
    """Return the node, or the function's argument, that a tensor comes from unchanged."""
    name = _node_of(tensor)
    for _ in range(len(nodes)):
        if name not in nodes or nodes[name].op != "Identity":
            break
        name = _node_of(nodes[name].input[0])
    return name


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").split(":", 1)[0]
