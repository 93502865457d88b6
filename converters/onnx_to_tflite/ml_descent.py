"""All trees of an ensemble at once, one level a step, as TFLite operators.

A row's place in each tree is the number of a node. A step looks up the node's column and threshold, compares, and goes
on to the left child or to the one after it: `place = left[place] + (x > threshold[place])`. Leaves lead to themselves,
so that all trees take as many steps as the deepest.

Comparisons that are not of this kind, and NaN, are told apart by the columns that a node looks at: the input itself
(NaN is not greater, so it goes left), the input with NaN as infinity (it goes right), and columns that hold 1 where the
input is one of some values. So every decision is the comparison of float32 numbers that ONNX asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgekit.converters.onnx_to_tflite import ml_nodes, steps
from edgekit.converters.onnx_to_tflite.activations import Maths
from edgekit.converters.onnx_to_tflite.draft import Array, Tensor
from edgekit.converters.onnx_to_tflite.linears import dense
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.ml_nodes import Trees
from edgekit.converters.onnx_to_tflite.refusal import Refused

_LARGEST = 1 << 23
"""Nodes up to which trees are written out."""

Mark = tuple[int, tuple[float, ...]]
"""A column, and the values at which its mark is 1; NaN may be one of them."""


@dataclass
class _Plan:
    """Nodes as "go right where x is greater": [nodes] each, in the order of `Trees`."""

    kind: str
    column: Array
    split: Array
    left: Array
    right: Array
    marks: dict[Mark, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """Nodes in the order in which they are reached; both children of a node lie side by side.

    Attributes:
        source: [places]: number of the node in `Trees`.
        left: [places]: place of the left child, the right one follows; a leaf leads to itself.
        trees: How many; their roots are the first places.
        depth: Steps of the deepest tree.
    """

    source: Array
    left: Array
    trees: int
    depth: int


def arrange(mode: Array, left: Array, right: Array, roots: Array) -> Tables:
    """Number the nodes level by level."""
    level, count, depth = np.asarray(roots), len(roots), 0
    sources, lefts = [], []
    start = 0
    while True:
        inner = mode[level] != ml_nodes.LEAF
        own = start + np.arange(len(level))
        children = count + 2 * np.arange(int(inner.sum()))
        own[inner] = children
        sources.append(level)
        lefts.append(own)
        if not len(children):
            break
        depth += 1
        start, count = count, count + 2 * len(children)
        if depth > len(mode) or count > _LARGEST:
            raise Refused("its trees are too large, or their branches lead back")
        level = np.stack([left[level[inner]], right[level[inner]]], axis=1).reshape(-1)
    return Tables(np.concatenate(sources), np.concatenate(lefts), len(roots), depth)


def _planned(trees: Trees, width: int) -> _Plan:
    """Every comparison as one of float32 with "greater", exactly."""
    mode, missing = trees.mode, trees.missing
    inner = mode != ml_nodes.LEAF
    low_side = np.isin(mode, (ml_nodes.LEQ, ml_nodes.LT))  # true means left
    at_least = np.isin(mode, (ml_nodes.LT, ml_nodes.GTE))  # right where x >= split
    ordered = low_side | np.isin(mode, (ml_nodes.GTE, ml_nodes.GT))
    left, right = np.where(low_side, trees.yes, trees.no), np.where(low_side, trees.no, trees.yes)
    nan_right = missing != low_side
    split = trees.split.astype(np.float32)
    column = np.where(nan_right, trees.feature + width, trees.feature)
    all_at_least = bool((at_least | ~ordered).all())
    plan = _Plan("GREATER_EQUAL" if all_at_least else "GREATER", column, split, left, right)
    if not all_at_least:
        plan.split = np.where(at_least, np.nextafter(split, np.float32(-np.inf)), split)
        # NaN stands as infinity, which is not greater than infinity; and nothing lies below minus infinity.
        for at in np.flatnonzero(ordered & ~at_least & nan_right & (split == np.inf)).tolist():
            _mark(plan, at, 2 * width, (int(trees.feature[at]), (np.nan,)))
        for at in np.flatnonzero(ordered & at_least & (split == -np.inf)).tolist():
            if nan_right[at]:
                plan.left[at] = plan.right[at]
            else:
                plan.left[at], plan.right[at] = plan.right[at], plan.left[at]
                _mark(plan, at, 2 * width, (int(trees.feature[at]), (np.nan,)))
    for at in np.flatnonzero(inner & ~ordered).tolist():
        values = trees.members.get(at, (float(split[at]),))
        equal = mode[at] != ml_nodes.NEQ
        plan.left[at], plan.right[at] = (trees.no[at], trees.yes[at]) if equal else (trees.yes[at], trees.no[at])
        known = {value for value in values if not np.isnan(value)}
        held = (*sorted(known), *([np.nan] if equal and missing[at] else []))
        if held:
            _mark(plan, at, 2 * width, (int(trees.feature[at]), held))
        else:
            plan.right[at] = plan.left[at]
    # No comparison with NaN holds: leaves stay where they are.
    plan.split = np.where(inner, plan.split, np.float32(np.nan)).astype(np.float32)
    plan.column = np.where(inner, plan.column, plan.column[inner][0] if inner.any() else 0)
    return plan


def _mark(plan: _Plan, at: int, first: int, mark: Mark) -> None:
    """Let a node go right where a mark is set."""
    plan.column[at] = first + plan.marks.setdefault(mark, len(plan.marks))
    plan.split[at] = 0.5


def descend(low: Lowering, x: Tensor, trees: Trees) -> tuple[Tensor, Array]:
    """Where each row of x [N, columns] ends in each tree.

    Returns:
        [N, trees] int32: places; and [places]: which node of `trees` lies at a place.
    """
    draft, width = low.draft, x.shape[1]
    inner = trees.mode != ml_nodes.LEAF
    if inner.any() and int(trees.feature[inner].max()) >= width:
        raise Refused("it looks at a column that its input does not have")
    plan = _planned(trees, width)
    tables = arrange(trees.mode, plan.left, plan.right, trees.roots)
    roots = np.arange(tables.trees, dtype=np.int32)[None, :]
    if not tables.depth:
        # Nothing is compared, but there is one answer a row.
        rows = steps.cast(draft, low_column(low, x), "int32")
        nothing = steps.binary(draft, "MUL", rows, draft.scalar(0, "int32"))
        return steps.binary(draft, "ADD", nothing, draft.constant(roots)), tables.source
    seen, columns = _columns(low, x, plan, inner)
    column, split = columns[plan.column[tables.source]], plan.split[tables.source]
    left = tables.left.astype(np.int32)
    first = column[: tables.trees].astype(np.int32)
    looked = draft.emit("GATHER", [seen, draft.constant(first)], [x.shape[0], len(first)], axis=1, batchDims=0)
    passed = steps.binary(draft, plan.kind, looked, draft.constant(split[None, : tables.trees]), "bool")
    place = steps.binary(draft, "ADD", steps.cast(draft, passed, "int32"), draft.constant(left[None, : tables.trees]))
    table_column, table_split, table_left = (
        draft.constant(values, f"{draft.origin}/{name}")
        for values, name in ((column.astype(np.int32), "columns"), (split, "thresholds"), (left, "children"))
    )
    for _ in range(1, tables.depth):
        at = draft.emit("GATHER", [table_column, place], place.shape, axis=0, batchDims=0)
        looked = draft.emit("GATHER", [seen, at], place.shape, axis=1, batchDims=1)
        bound = draft.emit("GATHER", [table_split, place], place.shape, axis=0, batchDims=0)
        passed = steps.cast(draft, steps.binary(draft, plan.kind, looked, bound, "bool"), "int32")
        before = draft.emit("GATHER", [table_left, place], place.shape, axis=0, batchDims=0)
        place = steps.binary(draft, "ADD", before, passed)
    return place, tables.source


def low_column(low: Lowering, x: Tensor) -> Tensor:
    """A column [N, 1] of truth values, whatever they are."""
    one = low.draft.emit("GATHER", [x, low.draft.ints([0])], [x.shape[0], 1], axis=1, batchDims=0)
    return steps.binary(low.draft, "EQUAL", one, one, "bool")


def _columns(low: Lowering, x: Tensor, plan: _Plan, inner: Array) -> tuple[Tensor, Array]:
    """What nodes look at: [N, columns], and for each column of the plan which of these it is."""
    width = x.shape[1]
    used = plan.column[inner]
    where = np.full(2 * width + len(plan.marks), -1, np.int64)
    parts: list[Tensor] = []
    start = 0
    for first, needed in ((0, used < width), (width, (used >= width) & (used < 2 * width))):
        if needed.any():
            parts.append(x if not first else _nan_last(low, x))
            where[first : first + width] = start + np.arange(width)
            start += width
    if plan.marks:
        parts.append(_marked(low, x, list(plan.marks)))
        where[2 * width :] = start + np.arange(len(plan.marks))
        start += len(plan.marks)
    if len(parts) == 1:
        return parts[0], where
    shape = [x.shape[0], start]
    return low.draft.emit("CONCATENATION", parts, shape, axis=1, fusedActivationFunction=0), where


def _nan_last(low: Lowering, x: Tensor) -> Tensor:
    """NaN as infinity."""
    do = Maths(low)
    return do.pick(do.test("EQUAL", x, x), x, float("inf"))


def _marked(low: Lowering, x: Tensor, marks: list[Mark]) -> Tensor:
    """[N, marks] float32: 1 where the input is one of the mark's values."""
    draft = low.draft
    pairs = [(at, column, value) for at, (column, values) in enumerate(marks) for value in values]
    values = np.array([value for *_, value in pairs], np.float32)
    taken = draft.ints(column for _, column, _ in pairs)
    looked = draft.emit("GATHER", [x, taken], [x.shape[0], len(pairs)], axis=1, batchDims=0)
    same = steps.binary(draft, "EQUAL", looked, draft.constant(values[None, :]), "bool")
    wanted = np.isnan(values)
    if wanted.any():
        missing = steps.binary(draft, "NOT_EQUAL", looked, looked, "bool")
        missing = steps.binary(draft, "LOGICAL_AND", missing, draft.constant(wanted[None, :]), "bool")
        same = steps.binary(draft, "LOGICAL_OR", same, missing, "bool")
    flags = steps.cast(draft, same, "float32")
    if all(len(held) == 1 for _, held in marks):
        return flags
    member = np.zeros((len(marks), len(pairs)), np.float32)
    member[[at for at, *_ in pairs], np.arange(len(pairs))] = 1
    return dense(low, flags, member)
