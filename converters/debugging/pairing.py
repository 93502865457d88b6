"""Which tensor of an artifact is which tensor of the float graph it was made from.

Quantizing fuses ops, puts conversions between them, renames and shortens. So tensors are paired in the graph's order by
two witnesses: the name (what is left of it after shortening) and the structure (the op that reads the same paired
tensors). Where both leave several, shapes decide; where they leave none, `by_values` looks at the numbers, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.converters.debugging.nets import CONVERSIONS, Array, Net, Op, Tensor
from edgekit.converters.onnx_to_tflite.nodes import channels_last, identity
from edgekit.converters.tflite_graphs import graph as files

How = Literal["interface", "name", "structure", "values"]
Order = tuple[int, ...]

ALIKE = 0.95
"""Cosine from which two tensors of one shape are taken for the same values; int8 in working nets has 0.99 and more."""
_EQUAL = 1e-3
"""Error, as a share of the values, up to which two tensors of floats are the same: what is merely alike is not."""
_APART = 0.02
"""By how much the next candidate must be less alike."""
_FUSED = 2
"""Ops behind an op that an engine may take into it: bias and activation."""
_NUMBERED = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Match:
    """One tensor of the artifact: its counterpart, and what said so."""

    reference: str
    how: How


Pairing = dict[str, Match]
"""Origin in the artifact -> its counterpart, an origin in the float graph."""


@dataclass(frozen=True)
class Values:
    """Real values of one sample, by origin."""

    artifact: Mapping[str, Array]
    reference: Mapping[str, Array]


def pair(artifact: Net, reference: Net, ends: Mapping[str, str], values: Values | None = None) -> Pairing:
    """Pair what names and structure tell.

    Args:
        artifact: Any precision.
        reference: The float graph; of the same format, or the ONNX graph that a TFLite one was lowered from.
        ends: Inputs and outputs of the artifact -> those of the reference.
        values: Where structure decides, they tell whether an activation behind the op went into it.
    """
    found = {artifact.origin(a): Match(reference.origin(r), "interface") for a, r in ends.items()}
    names = _Names(reference)
    taken = {match.reference for match in found.values()}
    witnesses = _Witnesses(artifact, reference, names, values, same=artifact.format == reference.format)
    for op in layers(artifact):
        for place, name in enumerate(op.outputs):
            if name in found or not comparable(artifact, name):
                continue
            match = _match(witnesses, (op, place, name), found)
            if match is not None and match.reference not in taken:
                found[name] = match
                taken.add(match.reference)
    return found


def by_values(artifact: Net, found: Pairing, values: Values, *, floats: bool = False) -> Pairing:
    """Pair what is left by the numbers of one sample, which tell more the better the artifact works.

    Args:
        artifact: Any precision.
        found: What is paired already.
        values: Of both sides.
        floats: The artifact computes in floats only, so that equal tensors have equal values.
    """
    taken = {match.reference for match in found.values()}
    more: Pairing = {}
    like, least = (_closeness, 1 - _EQUAL) if floats else (cosine, ALIKE)
    for op in layers(artifact):
        for name in op.outputs:
            if name in found or name not in values.artifact or not comparable(artifact, name):
                continue
            left = (other for other in values.reference if other not in taken)
            scores = sorted(((_alikeness(values, name, other, like), other) for other in left), reverse=True)
            if scores and scores[0][0] >= least and (len(scores) == 1 or scores[0][0] - scores[1][0] >= _APART):
                more[name] = Match(scores[0][1], "values")
                taken.add(scores[0][1])
    return more


def _alikeness(values: Values, mine: str, other: str, like: Callable[[Array, Array], float] | None = None) -> float:
    """Best cosine, or other measure, over the ways in which axes may lie; -1 where shapes differ."""
    one, two = values.artifact[mine], values.reference[other]
    measure = like or cosine
    return max((measure(one, two.transpose(order)) for order in orders(one.shape, two.shape)), default=-1.0)


def layers(net: Net) -> Iterator[Op]:
    """Ops that compute on the inputs' values; not conversions, nor what only the constants decide."""
    for op in net.ops:
        if op.kind not in CONVERSIONS and not all(name in net.constants for name in op.outputs):
            yield op


def comparable(net: Net, name: str) -> bool:
    """Whether a tensor holds real numbers that depend on the inputs."""
    return bool(name) and net.tensors[net.seen(name)].real and name not in net.constants


def orders(shape: tuple[int, ...], reference: tuple[int, ...]) -> list[Order]:
    """Ways in which the reference's axes may lie in the artifact: as they are, or channels last, or first."""
    if len(shape) != len(reference):
        return []
    rank = len(shape)
    last = channels_last(rank) if rank >= 3 else identity(rank)
    first = tuple(last.index(axis) for axis in range(rank))
    return [
        order
        for order in dict.fromkeys((identity(rank), last, first))
        if tuple(reference[axis] for axis in order) == tuple(shape)
    ]


def cosine(one: Array, other: Array) -> float:
    """Of all values; 1.0 for two that are zero everywhere, 0.0 where one is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0
    a, b = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    size = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return float(np.dot(a, b)) / size if size else float(not a.any() and not b.any())


def _closeness(one: Array, other: Array) -> float:
    """1.0 for equal values, less by their error as a share of the other's size; 0.0 where one is not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return 0.0
    a, b = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    size, error = float(np.linalg.norm(b)), float(np.linalg.norm(a - b))
    return max(0.0, 1 - error / size) if size else float(not error)


class _Names:
    """The reference's tensors by whatever may be left of their names."""

    def __init__(self, net: Net) -> None:
        self._known: dict[str, set[str]] = {}
        for op in layers(net):
            for name in op.outputs:
                if comparable(net, name):
                    for key in _keys(name, net.format):
                        self._known.setdefault(key, set()).add(name)

    def find(self, name: str, format: str) -> set[str]:
        """Candidates for a tensor of the artifact: by its whole name, or its last step."""
        first = files.first_step(name) if format == "tflite" else name
        return self._known.get(name) or self._known.get(first) or set()

    def find_numbered(self, name: str) -> set[str]:
        """The same for a name that got a number because it stood there already."""
        return self._known.get(_NUMBERED.sub("", name), set())


def _keys(name: str, format: str) -> Iterator[str]:
    yield name
    first = files.first_step(name) if format == "tflite" else name
    parts = first.split("/")
    for start in range(len(parts)):
        if parts[start]:
            yield "/".join(parts[start:])


@dataclass(frozen=True)
class _Witnesses:
    """What says which tensors belong together; `same`: both graphs are of one format."""

    artifact: Net
    reference: Net
    names: _Names
    values: Values | None
    same: bool

    def structure(self, op: Op, place: int, found: Pairing) -> list[str]:
        """Outputs of the reference's ops that read the counterparts, or of the activation behind them."""
        candidates = list(_alike(self.artifact, self.reference, op, place, found))
        if self.values is None or op.outputs[place] not in self.values.artifact:
            return candidates
        chosen = []
        for candidate in candidates:
            ways = [name for name in (candidate, *_behind(self.reference, candidate)) if name in self.values.reference]
            scores = {name: _alikeness(self.values, op.outputs[place], name) for name in ways}
            chosen.append(max(scores, key=lambda name: scores[name]) if scores else candidate)
        return list(dict.fromkeys(chosen))


def _behind(net: Net, name: str) -> Iterator[str]:
    """Tensors that single ops of one input make of a tensor, one after the other: activations."""
    for _ in range(_FUSED):
        readers = list(_readers(net, name))
        if len(readers) != 1 or len([part for part in readers[0].inputs if part and part not in net.constants]) != 1:
            return
        name = readers[0].outputs[0]
        yield name


def _match(witnesses: _Witnesses, about: tuple[Op, int, str], found: Pairing) -> Match | None:
    op, place, name = about
    artifact, reference = witnesses.artifact, witnesses.reference
    mine = artifact.tensors[name]
    taken = {match.reference for match in found.values()}
    by_name = witnesses.names.find(name, artifact.format)
    named = {r for r in by_name if _fits(mine, reference.tensors[r]) and r not in taken}
    structure = [r for r in witnesses.structure(op, place, found) if _fits(mine, reference.tensors[r])]
    numbered = witnesses.names.find_numbered(name)
    both = [r for r in structure if r in named] or [r for r in structure if r in numbered]
    exact = [r for r in named if r == name]
    for certain in (both, list(named), exact):
        if len(certain) == 1:
            return Match(certain[0], "name")
    left = [r for r in structure if r not in taken]
    return Match(left[0], "structure") if witnesses.same and len(left) == 1 and not named else None


def _alike(artifact: Net, reference: Net, op: Op, place: int, found: Pairing) -> Iterable[str]:
    """Outputs of the reference's ops that read the counterparts of what this op reads."""
    read = {artifact.origin(name) for name in op.inputs if name and name not in artifact.constants}
    if not read or not all(name in found for name in read):
        return []
    wanted = {found[name].reference for name in read}
    candidates: list[Op] = []
    for other in {reader.number: reader for name in wanted for reader in _readers(reference, name)}.values():
        theirs = {reference.origin(name) for name in other.inputs if name and name not in reference.constants}
        if theirs == wanted and len(other.outputs) > place:
            candidates.append(other)
    kin = [other for other in candidates if other.kind == op.kind]
    return [other.outputs[place] for other in kin or candidates]


def _readers(net: Net, origin: str) -> Iterator[Op]:
    """Ops that read a tensor's values, also behind conversions."""
    waiting = [origin]
    while waiting:
        for op in net.readers.get(waiting.pop(), ()):
            if op.kind in CONVERSIONS:
                waiting += op.outputs
            else:
                yield op


def _fits(mine: Tensor, other: Tensor) -> bool:
    """Whether two tensors may have one shape, in some order of axes; the batch may differ."""
    if mine.shape is None or other.shape is None:
        return True
    if len(mine.shape) != len(other.shape):
        return False
    sizes = sorted(size for size in mine.shape[1:] if size is not None)
    others = sorted(size for size in other.shape[1:] if size is not None)
    return None in mine.shape[1:] or None in other.shape[1:] or sizes == others
