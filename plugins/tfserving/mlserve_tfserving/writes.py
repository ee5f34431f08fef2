"""Whether a SavedModel writes to what it keeps from call to call: its variables and tables.

Only what a signature runs counts: every SavedModel also has what fills its variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_WRITES = re.compile(
    r"Assign(Add|Sub)?(VariableOp)?|AssignVariableXlaConcatND"
    r"|(Resource)?(Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)|(Sparse)?Apply\w+)"
    r"|(Resource)?(StridedSliceAssign|CountUpTo)"
    r"|LookupTable(Insert|Remove|Import)(V2)?"
)
"""The operations of TensorFlow's registry that do: those of variables as resources, those of the
older variables by reference, and those of tables."""


def keeps_state(meta_graph: Any) -> bool:
    """Return whether a signature of the `MetaGraphDef` writes to a variable or a table."""
    return any(_WRITES.fullmatch(node.op) for node in _run_by_signatures(meta_graph))


def _run_by_signatures(meta_graph: Any) -> Iterator[Any]:
    """Yield the nodes that the signatures run: of the graph, and of all functions called there."""
    library = meta_graph.graph_def.library
    functions = {item.signature.name: item for item in library.function}
    pending = list(_led_to_outputs(meta_graph))
    while pending:
        node = pending.pop()
        yield node
        for name in _called_by(node):
            if name in functions:
                pending += functions.pop(name).node_def


def _led_to_outputs(meta_graph: Any) -> Iterator[Any]:
    """Yield the nodes of the graph itself on which the outputs of the signatures depend."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    signatures = meta_graph.signature_def.values()
    outputs = [info for item in signatures for info in item.outputs.values()]
    pending = [tensor for info in outputs for tensor in _names(info)]
    while pending:
        name = pending.pop().removeprefix("^").split(":", 1)[0]
        if name in nodes:
            node = nodes.pop(name)
            yield node
            pending += node.input


def _names(info: Any) -> Iterator[str]:
    """Yield the tensors of an output: one, or those that a sparse or composite one is made of."""
    sparse = info.coo_sparse
    yield from (
        info.name,
        sparse.values_tensor_name,
        sparse.indices_tensor_name,
        sparse.dense_shape_tensor_name,
    )
    for component in info.composite_tensor.components:
        yield from _names(component)


def _called_by(node: Any) -> Iterator[str]:
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        for function in value.list.func:
            yield function.name
