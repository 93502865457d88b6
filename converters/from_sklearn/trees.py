"""Decision trees in the form that ONNX has: float32 thresholds that decide as the estimator's own, exact sums.

**Thresholds.** Estimators compare float32 inputs with float64 thresholds, ONNX holds float32 ones. Rounded to nearest,
a threshold may pass an input and send it the other way. The largest float32 below or at the threshold never does: no
float32 lies between the two.

**Sums.** Estimators add the leaves' values in float64, in the order of the trees; ONNX adds in float32, in any order.
Two classes that lead by the last bits, or tie, would change places. So each value is written in two digits, whole
numbers so small that float32 adds them exactly in any order (`digits`); the graph puts the two sums together
(`from_sklearn.sums`). What is left is 2**-40 of the largest sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgekit.converters.stages import Array

Mode = Literal["BRANCH_LEQ", "BRANCH_LT"]

LEAF = -1
"""Of `Tree.left` and `Tree.right`, where a node is a leaf."""

_MANTISSA = 24
_TINIEST, _LARGEST = -120, 120
"""Exponents that a digit's unit stays within, so that float32 holds it and its multiples."""


@dataclass(frozen=True)
class Tree:
    """One tree; node 0 is the root.

    Attributes:
        feature: [nodes] int: column that a node looks at.
        threshold: [nodes]: what it compares with; float64 as the estimator has it, float32 as ONNX does.
        left, right: [nodes] int: where a row goes that passes the comparison, or not; LEAF at a leaf.
        missing_left: [nodes] bool: NaN goes left.
        value: [nodes, sums] float64: what a leaf adds to each sum.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array

    @property
    def leaves(self) -> Array:
        """[nodes] bool."""
        return np.asarray(self.left == LEAF)

    def adding(self, value: Array) -> Tree:
        """The same tree with other values, [nodes, sums] float64."""
        return replace(self, value=np.asarray(value, np.float64))

    def looking_at(self, columns: Array) -> Tree:
        """The same tree over more columns: its column i is `columns[i]` of them."""
        inner = np.asarray(columns)[np.where(self.leaves, 0, self.feature)]
        return replace(self, feature=np.where(self.leaves, 0, inner))


@dataclass(frozen=True)
class Forest:
    """Trees whose leaves' values are added, and where the sums begin.

    Attributes:
        trees: At least one.
        base: [sums] float64.
        mode: How a threshold is compared: at most, or below.
        width: Type in which the estimator compares: it casts inputs to it.
    """

    trees: tuple[Tree, ...]
    base: Array
    mode: Mode = "BRANCH_LEQ"
    width: Literal["float32", "float64"] = "float32"

    @property
    def sums(self) -> int:
        return len(self.base)

    def exact(self) -> Forest:
        """The same decisions for every float32 row, by float32 thresholds."""
        if self.mode == "BRANCH_LT":  # only by estimators that hold float32 thresholds themselves
            return self
        trees = tuple(replace(tree, threshold=floor32(tree.threshold)) for tree in self.trees)
        return replace(self, trees=trees)


@dataclass(frozen=True)
class Digits:
    """Values of all trees as whole numbers: value = sum of digit i * units[i].

    Attributes:
        trees: One a tree: [digits, nodes, sums] float64 that hold whole numbers.
        base: [digits, sums], likewise.
        units: [digits] powers of two, each far below the one before.
    """

    trees: tuple[Array, ...]
    base: Array
    units: tuple[float, ...]

    def of(self, value: float) -> list[float]:
        """The digits of another number, for comparisons with a sum."""
        return [float(digit) for digit in _split(np.asarray(value, np.float64), self.units)]


def floor32(values: Any) -> Array:
    """The largest float32 at or below each number; the float32 numbers at or below both are the same."""
    wide = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        near = wide.astype(np.float32)
        return np.where(near.astype(np.float64) > wide, np.nextafter(near, np.float32(-np.inf)), near)


def from_sklearn(tree: Any, value: Any = None) -> Tree:
    """A tree of scikit-learn's (`estimator.tree_`).

    Args:
        tree: The fitted `sklearn.tree._tree.Tree`.
        value: [nodes, sums]; by default its own, one sum an output or class.
    """
    left = np.asarray(tree.children_left, np.int64)
    missing = getattr(tree, "missing_go_to_left", None)
    count = len(left)
    own = np.asarray(tree.value, np.float64).reshape(count, -1) if value is None else value
    leaf = left == LEAF
    return Tree(
        feature=np.where(leaf, 0, np.asarray(tree.feature, np.int64)),
        threshold=np.where(leaf, 0.0, np.asarray(tree.threshold, np.float64)),
        left=left,
        right=np.asarray(tree.children_right, np.int64),
        missing_left=np.zeros(count, bool) if missing is None else np.asarray(missing).astype(bool) & ~leaf,
        value=np.asarray(own, np.float64),
    )


def digits(forest: Forest) -> Digits:
    """Write the values of a forest in digits that float32 adds exactly.

    The first digit's unit is the smallest with which no sum of any leaves leaves float32's whole numbers; the second
    takes what the first leaves of each value. Values that one digit holds entirely (votes, counts) get one.
    """
    values = [np.where(tree.leaves[:, None], tree.value, 0.0) for tree in forest.trees]
    terms = [np.abs(value).max(axis=0) for value in values]
    bound = float((np.sum(terms, axis=0) + np.abs(forest.base)).max())
    # Each of the terms may be rounded up by half a unit; the base counts as one. Most trees add to one sum only.
    count = int((np.stack(terms) != 0).sum(axis=0).max()) + 1
    room = 2.0**_MANTISSA - count
    top = max(_TINIEST + 40, int(np.ceil(np.log2(bound / room)))) if bound else 0
    step = _MANTISSA - 1 - int(np.ceil(np.log2(count + 1)))
    units: tuple[float, ...] = (2.0**top,)
    if not all(_whole(value, units[0]) for value in (*values, forest.base)):
        units = (*units, 2.0 ** max(_TINIEST, top - step))
    return Digits(tuple(_split(value, units) for value in values), _split(forest.base, units), units)


def attributes(forest: Forest, written: Digits) -> dict[str, Any]:
    """Attributes of the TreeEnsembleRegressor that adds all digits of all sums: target = digit * sums + sum."""
    nodes: dict[str, list[Any]] = {name: [] for name in _NODE_LISTS}
    targets: dict[str, list[Any]] = {name: [] for name in _TARGET_LISTS}
    for number, (tree, values) in enumerate(zip(forest.trees, written.trees, strict=True)):
        count, leaf = len(tree.left), tree.leaves
        nodes["nodes_treeids"] += [number] * count
        nodes["nodes_nodeids"] += range(count)
        nodes["nodes_featureids"] += tree.feature.tolist()
        nodes["nodes_modes"] += ["LEAF" if end else forest.mode for end in leaf]
        nodes["nodes_values"] += np.where(leaf, np.float32(0), tree.threshold).astype(np.float32).tolist()
        nodes["nodes_truenodeids"] += np.where(leaf, 0, tree.left).tolist()
        nodes["nodes_falsenodeids"] += np.where(leaf, 0, tree.right).tolist()
        nodes["nodes_missing_value_tracks_true"] += tree.missing_left.astype(int).tolist()
        flat = values.transpose(1, 0, 2).reshape(count, -1)
        # Zeros are left out, but every leaf must add something.
        shown = (flat != 0) & leaf[:, None]
        shown[:, 0] |= leaf & ~shown.any(axis=1)
        at, target = np.nonzero(shown)
        targets["target_treeids"] += [number] * len(at)
        targets["target_nodeids"] += at.tolist()
        targets["target_ids"] += target.tolist()
        targets["target_weights"] += flat[at, target].tolist()
    return {**nodes, **targets, "n_targets": forest.sums * len(written.units), "aggregate_function": "SUM"}


def _whole(values: Array, unit: float) -> bool:
    scaled = values / unit
    return bool((scaled == np.rint(scaled)).all())


def _split(values: Array, units: Sequence[float]) -> Array:
    """[digits, ...]: whole multiples of each unit; the first ones rounded to nearest, so is the last."""
    rest = np.asarray(values, np.float64)
    found = []
    for unit in units:
        digit = np.rint(rest / unit)
        rest = rest - digit * unit
        found.append(digit)
    return np.stack(found)


_NODE_LISTS = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values", "nodes_truenodeids",
    "nodes_falsenodeids", "nodes_missing_value_tracks_true",
)  # fmt: skip
_TARGET_LISTS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
