"""Alarms in words."""

from __future__ import annotations

from typing import NamedTuple

from edgekit.monitor.alarm import Kind
from edgekit.monitor.cause import Cause
from edgekit.monitor.columns import Column
from edgekit.monitor.faults import Fault
from edgekit.monitor.sketches import Distances

_NAMED = 3
"""Moves that a message names; it counts the others."""

_CUT = 7.0
"""Deviations from which on a mean is one of numbers that were cut (`reference.CLIP`), and only a bound."""


class Move(NamedTuple):
    """What one number did.

    Attributes:
        where: "input x: brightness", "class dog".
        aspect: "middle", "spread" or "share".
        amount: How far, in `unit`.
        before, now: Mean, or share.
        unit: "sigma" or "share".
    """

    where: str
    aspect: str
    amount: float
    before: float
    now: float
    unit: str


_OPENINGS: dict[Kind, str] = {
    "input-shift": "The inputs have moved",
    "input-spread": "The inputs vary otherwise than they did",
    "input-relation": "Inputs do not go together as they did",
    "embedding-shift": "What the model makes of its inputs has moved",
    "embedding-spread": "What the model makes of its inputs varies otherwise than it did",
    "embedding-relation": "What the model makes of its inputs does not go with them as it did",
    "output-shift": "The outputs have moved",
    "confidence-shift": "The model is not as sure as it was",
    "class-shift": "Classes are answered more or less often than they were",
    "unfamiliar": "Samples lie elsewhere than those of the reference",
    "clipped": "The sound is cut off at its extremes, or no longer is",
}


def moved(kind: Kind, moves: list[Move], since: int) -> str:
    """A sentence about moves, the largest first."""
    told = "; ".join(_told(move, relation=kind in ("input-relation", "embedding-relation")) for move in moves[:_NAMED])
    more = len(moves) - _NAMED
    others = f"; and {more} more" if more > 0 else ""
    return f"{_OPENINGS[kind]}: {told}{others}. Since about sample {since}."


def behind(cause: Cause, *, start: bool) -> str:
    """Sentences, each with a space before, about what may be behind a shift.

    Args:
        cause: A guess.
        start: It was there with the first sample.
    """
    told = f" {cause.text[0].upper()}{cause.text[1:]}." if cause.text else ""
    if cause.mistake:
        return f"{told} {_APP}"
    return f"{told} It was so from the first sample on: {_APP[0].lower()}{_APP[1:]}" if start else told


_APP = "Compare how the app prepares its inputs with the data of the conversion; predict does what [preprocess] says."


def _told(move: Move, *, relation: bool) -> str:
    if move.aspect == "share":
        return f"{move.where} {move.before:.1%} before, {move.now:.1%} now"
    if move.aspect == "spread" and relation:
        return f"{move.where} follows the others {'less' if move.amount > 0 else 'more'} closely"
    if move.aspect == "spread":
        return f"{move.where} varies {'more' if move.amount > 0 else 'less'}"
    direction = "higher" if move.amount > 0 else "lower"
    cut = abs(move.amount) >= _CUT
    size = f"more than {_CUT:.0f}" if cut else f"{abs(move.amount):.2f}"
    if relation:
        return f"{move.where} is {size} sigma {direction} than the others let expect"
    bound = ("at least " if move.amount > 0 else "at most ") if cut else ""
    return f"{move.where} is {size} sigma {direction} ({move.before:.4g} before, {bound}{move.now:.4g} now)"


def reshaped(column: Column, apart: Distances, place: int, since: int) -> str:
    """A sentence about a distribution that differs."""
    figures = f"PSI {apart.psi[place]:.2f}, KS {apart.ks[place]:.2f}, Wasserstein {apart.w[place]:.2f} sigma"
    return f"The distribution of {column.where} is another one: {figures}. Since sample {since} or later."


def frozen(column: Column, found: Fault) -> str:
    """A sentence about an input of which all numbers stand still."""
    what = {"picture": "picture", "band": "sound or series"}.get(column.noun, "numbers")
    return (
        f"input {column.source} stands still: the same {what} {found.samples} times, of a camera or sensor that hangs, "
        f"or an app that hands over the last one again. Since sample {found.since}."
    )


def fault(kind: Kind, column: Column, found: Fault, others: int, last: float | None) -> str:
    """A sentence about a fault; `last` is what a constant always was, None if it was missing."""
    where, since = column.where, f" Since sample {found.since}."
    also = f" {'So do' if kind == 'stuck' else 'So it is with'} {others} more of its numbers." if others else ""
    match kind:
        case "stuck":
            gray = column.noun == "picture" and column.name in ("red", "blue")
            guess = ": perhaps pictures without color, as of a camera in its night mode" if gray else ""
            return f"{where} stands still: the same number {found.samples} times{guess}.{also}{since}"
        case "missing":
            return f"{where} is missing: {found.samples} times no number.{also}{since}"
        case "blank":
            return f"{where} is as good as none in {found.samples} samples: black, silent or covered.{also}{since}"
        case "clipped":
            return f"The sound of input {column.source} is cut off at its extremes in {found.samples} samples.{since}"
        case "constant" if last is None:
            return f"{where} was as good as always missing and no longer is, in {found.samples} samples.{also}{since}"
        case "constant":
            return f"{where} was always {last:.4g} and no longer is, in {found.samples} samples.{also}{since}"
        case _:
            return f"{where} is far beyond anything seen before, in {found.samples} samples.{also}{since}"
