"""Check the indices inside trees that a file holds.

scikit-learn follows them without looking, so that a damaged or made-up tree makes the process
crash or read what is not its own. skops therefore does not trust these types; here they are
trusted after every index was found to lead forward and to end inside the tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import BaseEnsemble
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree

from mlserve_sklearn.parts import parts_of

TYPES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)


def check_trees(estimator: object) -> None:
    """Raise ValueError for a tree with an index that leads backwards or out of it."""
    parts = list(parts_of(estimator))
    holders = {id(part): holder for part, holder in parts}
    for part, holder in parts:
        if isinstance(part, Tree):
            _check_tree(part, _width(holder, holders))
        elif isinstance(part, TreePredictor):
            _check_predictor(part, holder.n_features_in_)
        elif isinstance(part, KDTree | BallTree):
            _check_neighbours(part)


def _width(holder: Any, holders: dict[int, Any]) -> int:
    """Return how many columns the rows have that a tree is run on.

    A forest checks its rows once, and then runs each tree on them without a further check.
    """
    widths = [holder.n_features_in_]
    ensemble = holders.get(id(holder))
    if isinstance(ensemble, BaseEnsemble):
        widths.append(ensemble.n_features_in_)
    return int(min(widths))


def _check_tree(tree: Any, width: int) -> None:
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    _check_children(left[inner], right[inner], np.flatnonzero(inner), len(left))
    _check_within("feature", tree.feature[inner], min(width, tree.n_features))


def _check_predictor(predictor: Any, width: int) -> None:
    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
    _check_children(left[inner], right[inner], np.flatnonzero(inner), len(nodes))
    _check_within("feature", nodes["feature_idx"][inner], width)
    by_category = inner & (nodes["is_categorical"] != 0)
    _check_within("bitset", nodes["bitset_idx"][by_category], len(predictor.raw_left_cat_bitsets))


def _check_neighbours(tree: Any) -> None:
    data, indices, nodes, bounds = (np.asarray(array) for array in tree.get_arrays())
    _check_within("row", indices, len(data))
    _check_within("row", nodes["idx_start"], len(data))
    _check_within("row", nodes["idx_end"], len(data) + 1)
    state = tree.__getstate__()
    if len(indices) != len(data) or len(nodes) != state[6] or bounds.shape[1] != len(nodes):
        raise ValueError("the arrays of a tree of neighbours differ in length")
    _check_within("node", np.flatnonzero(nodes["is_leaf"] == 0) * 2 + 2, len(nodes))


def _check_children(left: Any, right: Any, own: Any, count: int) -> None:
    for children in (left, right):
        if (children <= own).any() or (children >= count).any():
            raise ValueError("a node of a tree leads backwards, or out of the tree")


def _check_within(what: str, indices: Any, count: int) -> None:
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise ValueError(f"a node of a tree names a {what} that there is not")
