"""What a program writes to: the tensors that it is given, or those that it keeps.

PyTorch's operations say in their schema which arguments they write to, `copy_(Tensor(a!) self)`,
and which they return or are a view of, `slice(Tensor(a) self) -> Tensor(a)`. A tensor that is
written to is followed back along these to where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch


def graph_overwrites(module: torch.fx.GraphModule) -> bool:
    """Return whether an operation of the program writes to one of its arguments.

    What it changes may be a tensor of its own, and not one that it was given.
    """
    return any(_is_written(arg) for node in _graph_nodes(module) for arg in _arguments(node))


def graph_keeps_state(module: torch.fx.GraphModule) -> bool:
    """Return whether an operation of the program writes to a tensor of the module, a buffer say."""
    return any(
        _is_written(argument) and _is_kept_by_graph(given)
        for node in _graph_nodes(module)
        for argument, given in _given(node)
    )


def script_overwrites(module: Any) -> bool:
    """Return whether an operation of the module works in place, such as `aten::add_`."""
    try:
        nodes = list(_script_nodes(module))
    except RuntimeError:  # what cannot be seen may do anything
        return True
    return any(node.kind().endswith("_") and not node.kind().endswith("__") for node in nodes)


def script_keeps_state(module: Any) -> bool:
    """Return whether the module writes to a tensor of its own, or sets one of its attributes."""
    try:
        nodes = list(_script_nodes(module))
    except RuntimeError:  # as above
        return True
    given = {value.debugName() for value in module.inlined_graph.inputs()}
    carried = _carried(nodes)
    return any(
        node.kind() == "prim::SetAttr"
        or any(
            _is_written(argument) and _is_kept_by_script(value, given, carried)
            for value, argument in zip(node.inputs(), _script_arguments(node), strict=False)
        )
        for node in nodes
    )


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _graph_nodes(module: torch.fx.GraphModule) -> Iterator[Any]:
    graphs = (part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule))
    return chain.from_iterable(graph.nodes for graph in graphs)


def _arguments(node: Any) -> Iterable[Any]:
    schema = getattr(node.target, "_schema", None)
    return () if schema is None else schema.arguments


def _given(node: Any) -> Iterator[tuple[Any, Any]]:
    """Return each argument of the node's operation with what it is given."""
    for place, argument in enumerate(_arguments(node)):
        if place < len(node.args):
            yield argument, node.args[place]
        elif argument.name in node.kwargs:
            yield argument, node.kwargs[argument.name]


def _is_kept_by_graph(given: Any) -> bool:
    pending, seen = [given], set[torch.fx.Node]()
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, torch.fx.Node) and value not in seen:
            seen.add(value)
            if value.op == "get_attr":
                return True
            has_schema = hasattr(value.target, "_schema")
            aliases = (item for argument, item in _given(value) if argument.alias_info is not None)
            pending += aliases if has_schema else value.args  # such as an item of a list
    return False


def _script_nodes(module: Any) -> Iterator[Any]:
    """Yield the nodes of all blocks that may run: the module is no longer trained.

    Raises RuntimeError.
    """
    pending = [module.inlined_graph]
    while pending:
        for node in pending.pop().nodes():
            yield node
            pending += _chosen(node) if node.kind() == "prim::If" else node.blocks()


def _chosen(branching: Any) -> list[Any]:
    """Return the blocks of a `prim::If` that may run: the first one if its condition holds."""
    blocks, (condition,) = list(branching.blocks()), branching.inputs()
    holds = _truth(condition)
    return blocks if holds is None else [blocks[0 if holds else 1]]


def _truth(condition: Any) -> bool | None:
    """Return what a condition always is: `training` is false, as in a layer that normalizes."""
    node = condition.node()
    if node.kind() == "prim::GetAttr" and node.s("name") == "training":
        return False
    if node.kind() == "prim::Constant":
        found = condition.toIValue()
        return found if isinstance(found, bool) else None
    if node.kind() == "prim::If":  # of `training and ...`
        names = [output.debugName() for output in node.outputs()]
        place = names.index(condition.debugName())
        results = {_truth(list(block.outputs())[place]) for block in _chosen(node)}
        return results.pop() if len(results) == 1 else None
    return None


def _script_arguments(node: Any) -> list[Any]:
    """Return the arguments in the schema of a node's operation; none of what has no schema."""
    try:
        return list(torch._C.parse_schema(node.schema()).arguments)  # noqa: SLF001 - no other reads it
    except RuntimeError:
        return []


def _carried(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    """Return what each value may be that a loop carries: what it begins with, and goes on with."""
    carried = dict[str, list[Any]]()
    for node in nodes:
        if node.kind() == "prim::Loop":  # (most, whether to begin, *values)
            (block,) = node.blocks()  # (round, *values) -> (whether to go on, *values)
            values = zip(
                list(block.inputs())[1:],
                list(node.inputs())[2:],
                list(block.outputs())[1:],
                strict=True,
            )
            carried |= {inside.debugName(): [first, later] for inside, first, later in values}
    return carried


def _is_kept_by_script(value: Any, given: set[str], carried: Mapping[str, list[Any]]) -> bool:
    """Return whether the value may be, or be a view of, what the module keeps."""
    pending, seen = [value], set(given)
    while pending:
        value = pending.pop()
        if value.debugName() in seen:
            continue
        seen.add(value.debugName())
        if value.debugName() in carried:
            pending += carried[value.debugName()]
        elif value.node().kind() in ("prim::GetAttr", "prim::Constant", "prim::Param"):
            return True  # a parameter that is neither given nor carried is not followed
        else:
            pending += _sources(value.node())
    return False


def _sources(node: Any) -> list[Any]:
    """Return the values that what the node returns may be, or be a view of."""
    inputs, arguments = list(node.inputs()), _script_arguments(node)
    if arguments:
        pairs = zip(inputs, arguments, strict=False)
        inputs = [each for each, argument in pairs if argument.alias_info is not None]
    return [*inputs, *chain.from_iterable(block.outputs() for block in node.blocks())]
