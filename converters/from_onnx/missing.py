"""Which inputs of a graph take NaN for a missing value: those on which all that reads them knows what NaN means.

That is an imputer, IsNaN with a Where on its answer, or trees of which some say where NaN goes; through operators that
only move values. What else reads an input would go on with NaN.
"""

from __future__ import annotations

import math
from typing import Any

_MOVING = frozenset({
    "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Slice", "Split", "Concat",
    "ArrayFeatureExtractor", "FeatureVectorizer", "Dropout",
})  # fmt: skip
_TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"})


def takes(graph: Any, name: str) -> bool:
    """Whether the input takes NaN.

    Args:
        graph: GraphProto.
        name: Of an input of floats.
    """
    outputs = {value.name for value in graph.output}
    holds = {name}
    """Tensors of the input's own values, NaN among them."""
    marks: dict[str, set[str]] = {}
    """Answers of IsNaN, and of what tensors."""
    taken = False
    for node in graph.node:  # in the order of a run
        read = [given for given in node.input if given in holds]
        if not read:
            continue
        if node.op_type == "IsNaN":
            marks.setdefault(node.output[0], set()).update(read)
        elif _filled(node, holds, marks) or _fills(node) or _tracks(node):
            taken = True
        elif node.op_type in _MOVING:
            holds.update(node.output)
        else:
            return False
    return taken and not holds & outputs


def _filled(node: Any, holds: set[str], marks: dict[str, set[str]]) -> bool:
    """Whether it is a Where that puts something else where its tensor is NaN."""
    if node.op_type != "Where":
        return False
    condition, there, other = node.input
    return there not in holds and other in marks.get(condition, ())


def _fills(node: Any) -> bool:
    """Whether it is an Imputer that replaces NaN; of one that does not say what it replaces that is 0."""
    return node.op_type == "Imputer" and any(
        attribute.name == "replaced_value_float" and math.isnan(attribute.f) for attribute in node.attribute
    )


def _tracks(node: Any) -> bool:
    """Whether it is trees of which some say that NaN passes a comparison."""
    given = [attribute for attribute in node.attribute if attribute.name == "nodes_missing_value_tracks_true"]
    return node.op_type in _TREES and any(
        any(attribute.ints) or any(attribute.t.raw_data) or any(attribute.t.int32_data) for attribute in given
    )
