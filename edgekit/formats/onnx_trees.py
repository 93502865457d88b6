"""How large ONNX's ensembles of trees are, told from the lengths of their lists, which are not read.

Source: https://onnx.ai/onnx/operators, TreeEnsembleClassifier and ...Regressor (ai.onnx.ml 1 to 4), TreeEnsemble (5).
"""

from __future__ import annotations

import math

from edgekit.formats.onnx_model import Node

IDS = "nodes_nodeids"
"""Numbers of nodes, which begin with 0 in each tree."""
SPLITS = frozenset({"nodes_splits", "nodes_values", "nodes_values_as_tensor"})
"""Thresholds, one a node."""
LISTS = {IDS} | SPLITS
"""Attributes whose elements are counted."""
_OPS = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_ZERO = {0: b"\x40\x00", 2: b"\x00"}
"""A zero among integers that stand one by one behind the tag of `AttributeProto.ints`, or in one payload."""
_ONE = 5
"""Bytes of a float that stands alone: its tag, and the number."""


def elements(data: bytes, name: str, wire: int, at: int, stop: int, end: int) -> int:
    """Of one list: how many zeros it has (`IDS`), or how many floats.

    Args:
        data: The file.
        name: Of the attribute.
        wire: Type of its first field with elements: 0 or 5 one by one, 2 in one payload.
        at: Where that field's payload begins.
        stop: Where it ends.
        end: Of the attribute.
    """
    if name == IDS:
        return data.count(_ZERO[0], at - 1, end) if wire == 0 else data.count(_ZERO[2], at, stop)
    return (stop - at) // 4 if wire == 2 else (end - at + 1) // _ONE


def visits(node: Node) -> int:
    """Nodes that one sample passes on its way through all trees, if each splits evenly; 0 for other operators."""
    if node.op not in _OPS or node.domain != "ai.onnx.ml":
        return 0
    splits = max((node.counts.get(name, 0) for name in SPLITS), default=0)
    if node.op == "TreeEnsemble":  # lists its inner nodes alone, and where each tree begins
        trees = len(node.lists.get("tree_roots", ()))
        leaves = splits + trees
    else:
        trees = node.counts.get(IDS, 0)
        leaves = (splits + trees) // 2
    return round(trees * math.log2(leaves / trees)) if 0 < trees < leaves else trees
