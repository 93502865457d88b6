"""Ensembles of trees as ONNX' ai.onnx.ml writes them, read into arrays: one row a node, leaves among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.converters.onnx_to_tflite.draft import Array
from edgekit.converters.onnx_to_tflite.nodes import Node
from edgekit.converters.onnx_to_tflite.refusal import Refused

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
"""In the order in which TreeEnsemble numbers them."""
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
LEAF = 7

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees.

    Attributes:
        mode: [nodes], see `MODES`; LEAF at leaves.
        feature: [nodes]: column of the input.
        split: [nodes] float32.
        members: Node -> the values that BRANCH_MEMBER compares with.
        yes, no: [nodes]: which node is next.
        missing: [nodes] bool: NaN goes where the comparison holds.
        roots: [trees].
        value: [nodes, targets] float32, what leaves add.
        given: [nodes, targets] bool: the leaf says something about this target.
    """

    mode: Array
    feature: Array
    split: Array
    members: dict[int, tuple[float, ...]]
    yes: Array
    no: Array
    missing: Array
    roots: Array
    value: Array
    given: Array


def _floats(node: Node, name: str) -> Array:
    """Numbers that are a list or, for double precision, a tensor."""
    tensor = node.attribute(f"{name}_as_tensor")
    return np.asarray(node.attribute(name, ()) if tensor is None or not tensor.size else tensor).reshape(-1)


def _splits(node: Node, values: Array, mode: Array) -> Array:
    """Float32 numbers that decide about float32 rows as the given ones do, which may be of double precision.

    What float32 does not hold is rounded down, for "below" and "at least" up; nothing is equal to it. Where the rows
    are of double precision too, both are rounded to nearest, so that what was equal still is.
    """
    if node.value().dtype == "float64":
        return np.asarray(values).astype(np.float32)
    wide = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        near = wide.astype(np.float32)
    down = np.where(near > wide, np.nextafter(near, np.float32(-np.inf)), near)
    up = np.where(near < wide, np.nextafter(near, np.float32(np.inf)), near)
    made = np.where(np.isin(mode, (LT, GTE)), up, down)
    alone = np.isin(mode, (EQ, NEQ)) & (near != wide)
    return np.where(alone, np.float32(np.nan), made).astype(np.float32)


def base_values(node: Node) -> Array:
    """What is added to the sums; may be empty."""
    return _floats(node, "base_values").astype(np.float32)


def classic(node: Node, kind: str, targets: int) -> Trees:
    """Of TreeEnsembleClassifier and TreeEnsembleRegressor.

    Args:
        node: The node.
        kind: Prefix of the attributes that hold the leaves' weights: "class" or "target".
        targets: How many sums there are.
    """
    tree_ids, node_ids = (_ints(node, f"nodes_{name}") for name in ("treeids", "nodeids"))
    place = {key: at for at, key in enumerate(zip(tree_ids.tolist(), node_ids.tolist(), strict=True))}
    names = node.attribute("nodes_modes", ())
    known = {name: number for number, name in enumerate(MODES)} | {"LEAF": LEAF}
    if any(name not in known for name in set(names)):
        raise Refused("it has comparisons that ONNX does not know")
    mode = np.array([known[name] for name in names], np.int8)
    if (mode == MEMBER).any():
        raise Refused("its comparisons are with sets, whose values it has no attribute for")
    count = len(mode)
    yes, no = (_next(tree_ids, _ints(node, f"nodes_{name}nodeids"), mode, place) for name in ("true", "false"))
    missing = _ints(node, "nodes_missing_value_tracks_true")
    value, given = np.zeros((count, targets), np.float32), np.zeros((count, targets), bool)
    keys = zip(_ints(node, f"{kind}_treeids").tolist(), _ints(node, f"{kind}_nodeids").tolist(), strict=True)
    rows = np.array([place.get(key, -1) for key in keys], np.int64)
    columns = _ints(node, f"{kind}_ids")
    if (rows < 0).any() or (columns.size and (columns.min() < 0 or columns.max() >= targets)):
        raise Refused("it gives weights to nodes or targets that it does not have")
    np.add.at(value, (rows, columns), _floats(node, f"{kind}_weights").astype(np.float32))
    given[rows, columns] = True
    inner = mode != LEAF
    child = np.zeros(count, bool)
    child[yes[inner]] = child[no[inner]] = True
    roots = [next((at for at in members if not child[at]), members[0]) for members in _grouped(tree_ids)]
    split = _splits(node, _floats(node, "nodes_values"), mode)
    return Trees(
        mode, np.where(inner, _ints(node, "nodes_featureids"), 0), split, {}, yes, no,
        missing.astype(bool) if missing.size else np.zeros(count, bool), np.array(roots), value, given,
    )  # fmt: skip


def _ints(node: Node, name: str) -> Array:
    return np.asarray(node.attribute(name, ()), np.int64)


def _next(tree_ids: Array, targets: Array, mode: Array, place: dict[tuple[int, int], int]) -> Array:
    found = np.zeros(len(mode), np.int64)
    for at in np.flatnonzero(mode != LEAF).tolist():
        to = place.get((int(tree_ids[at]), int(targets[at])))
        if to is None:
            raise Refused("a branch of its trees leads nowhere")
        found[at] = to
    return found


def _grouped(tree_ids: Array) -> list[list[int]]:
    """Nodes of each tree, the trees in the order in which they begin."""
    found: dict[int, list[int]] = {}
    for at, tree in enumerate(tree_ids.tolist()):
        found.setdefault(tree, []).append(at)
    return list(found.values())


def modern(node: Node) -> Trees:
    """Of TreeEnsemble, which lists leaves apart."""
    modes = np.asarray(node.attribute("nodes_modes"), np.int8)
    inner, targets = len(modes), int(node.attribute("n_targets", 1))
    weights = np.asarray(node.attribute("leaf_weights"), np.float32).reshape(-1)
    total = inner + len(weights)

    def joined(name: str, fill: Any, dtype: Any) -> Array:
        given = node.attribute(name)
        head = np.full(inner, fill, dtype) if given is None else np.asarray(given).astype(dtype)
        return np.concatenate([head, np.full(len(weights), fill, dtype)])

    branches = [
        joined(f"nodes_{way}nodeids", 0, np.int64) + np.where(joined(f"nodes_{way}leafs", 0, np.int64) != 0, inner, 0)
        for way in ("true", "false")
    ]
    mode = np.concatenate([modes, np.full(len(weights), LEAF, np.int8)])
    value, given = np.zeros((total, targets), np.float32), np.zeros((total, targets), bool)
    rows, columns = inner + np.arange(len(weights)), _ints(node, "leaf_targetids")
    value[rows, columns], given[rows, columns] = weights, True
    split = np.concatenate([_splits(node, node.attribute("nodes_splits"), modes), np.zeros(len(weights), np.float32)])
    return Trees(
        mode, joined("nodes_featureids", 0, np.int64), split, _members(node, modes), branches[0], branches[1],
        joined("nodes_missing_value_tracks_true", 0, bool), _ints(node, "tree_roots"), value, given,
    )  # fmt: skip


def _members(node: Node, modes: Array) -> dict[int, tuple[float, ...]]:
    """The sets of BRANCH_MEMBER, which end with NaN, in the order of the nodes."""
    found: dict[int, tuple[float, ...]] = {}
    given = node.attribute("membership_values")
    values = np.zeros(0) if given is None else np.asarray(given, np.float64)
    ends = [-1, *np.flatnonzero(np.isnan(values)).tolist()]
    for number, at in enumerate(np.flatnonzero(modes == MEMBER).tolist()):
        if number + 1 >= len(ends):
            raise Refused("it has fewer sets than comparisons with sets")
        members = values[ends[number] + 1 : ends[number + 1]]
        found[at] = tuple(members[members.astype(np.float32) == members].tolist())
    return found
