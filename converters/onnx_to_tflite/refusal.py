"""Why an operator cannot be lowered; collected into one report before anything is written."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 - not an error of the program: an answer about one node
    """No lowering exists for a node as the model uses it.

    Attributes:
        why: One clause, without the node's name.
        instead: What to try.
    """

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.instead = instead


@dataclass(frozen=True)
class Gap:
    """One node that is not lowered.

    Attributes:
        node: Its name, or that of its first output.
        op: Its type, with its domain unless that is ai.onnx.
        why: One clause.
        instead: What to try; may be empty.
    """

    node: str
    op: str
    why: str
    instead: str = ""

    def __str__(self) -> str:
        return f"{self.op} ({self.node}): {self.why}"
