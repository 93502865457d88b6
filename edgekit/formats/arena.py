"""Where the activations lie in memory, planned as the TFLite interpreter plans them.

Greedy by size: tensors that live through the whole run come first, then the others by falling size, each into the
tightest gap left by those it shares time with, every offset a multiple of 64 bytes. Ops that may write over an input
share its place. Inputs, outputs and variables are never overwritten.

Source: LiteRT, tflite/arena_planner.cc (PlanAllocations, IdentifyInPlaceTensors, CreateTensorAllocationVector) and
tflite/simple_memory_arena.cc (SimpleMemoryArena::Allocate). onnxruntime plans differently in detail but by the same
lifetimes; for ONNX the figure is an estimate of the same kind.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.formats import ties

ALIGNMENT = 64
"""kDefaultTensorAlignment in tflite/util.h."""

_SCALAR_BYTES = 4
"""kScalarTensorBytes: results this small never share a place."""

_STEPS = 8_000_000
"""Comparisons before the plan is given up: some thousand tensors that are all alive at once."""

_SPAN = 32
"""Steps that tensors are looked up by."""

_MANY = 64
"""A tensor that lives through more such spans is kept apart."""

_FOREVER = 1 << 62

Key = Hashable
"""What a reader calls its tensors: names or numbers."""


@dataclass(frozen=True)
class Step:
    """One op.

    Attributes:
        inputs: Keys of tensors.
        outputs: Keys of tensors.
        inplace: Positions of inputs whose place the first output may take over.
        unmodified: The output has the very bytes of the input (a reshape), so that other readers do not matter.
        scratch: Keys of tensors that only its kernel uses, while it runs, or for good if they are variables.
    """

    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    inplace: tuple[int, ...] = ()
    unmodified: bool = False
    scratch: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies.

    Attributes:
        offset: Bytes from the arena's start.
        bytes: How many.
        first, last: Steps during which it is alive; both ends are within.
    """

    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """A plan.

    Attributes:
        bytes: Peak of the activations, variables included.
        kept_bytes: Of the variables, which lie in an arena of their own.
        places: Of every tensor that has one of its own, variables aside.
        shared: Tensor -> the tensor whose place it takes.
    """

    bytes: int
    kept_bytes: int
    places: Mapping[Key, Place]
    shared: Mapping[Key, Key]


def plan(
    sizes: Mapping[Key, int],
    steps: Sequence[Step],
    inputs: Iterable[Key],
    outputs: Iterable[Key],
    variables: Iterable[Key] = (),
) -> int | None:
    """Peak bytes of the activations.

    Args:
        sizes: Tensor -> bytes, of every tensor that is not a constant; steps may name others, which are left out.
        steps: In the order of execution.
        inputs: Of the graph.
        outputs: Of the graph.
        variables: State that outlives a run; it has an arena of its own, whose bytes are included.

    Returns:
        Bytes; None when there are too many tensors to plan.
    """
    found = layout(sizes, steps, inputs, outputs, variables)
    return None if found is None else found.bytes


def layout(
    sizes: Mapping[Key, int],
    steps: Sequence[Step],
    inputs: Iterable[Key],
    outputs: Iterable[Key],
    variables: Iterable[Key] = (),
) -> Layout | None:
    """Like `plan`, with the place of every tensor."""
    fixed, made = {*variables}, {key for step in steps for key in (*step.outputs, *step.scratch)}
    begun = tuple(dict.fromkeys(key for key in (*variables, *inputs) if key not in made or key not in fixed))
    ends = ({*begun} - fixed, {*outputs})
    shared = _shared(sizes, steps, ends, fixed)
    first, last = _lifetimes(steps, begun, ends[1], shared)
    order = _order(sizes, steps, begun, first, last)
    moving = [t for t in order if t not in shared and t not in fixed]
    persistent = _place([(sizes[t], 0, _FOREVER) for t in order if t in fixed])
    passing = _place([(sizes[t], first[t], last[t]) for t in moving])
    if persistent is None or passing is None:
        return None
    end = max(len(steps) - 1, 0)
    places = {t: Place(at, sizes[t], first[t], min(last[t], end)) for t, at in zip(moving, passing[1], strict=True)}
    return Layout(persistent[0] + passing[0], persistent[0], places, shared)


def _order(
    sizes: Mapping[Key, int],
    steps: Sequence[Step],
    begun: Sequence[Key],
    first: Mapping[Key, int],
    last: Mapping[Key, int],
) -> list[Key]:
    """In which order tensors are placed: those that live throughout, then by falling size, then by first use."""
    rank: dict[Key, tuple[int, int, int]] = {}
    for number, key in enumerate(sizes):
        if key in first and sizes[key]:
            always = first[key] == 0 and last[key] == _FOREVER
            rank[key] = (0, number, 0) if always else (1, -sizes[key], first[key])
    if len(set(rank.values())) == len(rank) or not all(isinstance(key, int) for key in rank):
        return sorted(rank, key=rank.__getitem__)
    groups: list[list[int]] = [[] for _ in range(max(len(steps), 1))]
    groups[0] += [key for key in begun if isinstance(key, int)]
    for index, step in enumerate(steps):
        groups[index] += [key for key in (*step.outputs, *step.scratch) if isinstance(key, int)]
    met = dict.fromkeys(key for group in groups for key in ties.set_order(group) if key in rank)
    order: list[Key] = [*met, *(key for key in rank if key not in met)]
    ties.introsort(order, lambda one, two: rank[one] < rank[two])
    return order


def _shared(
    sizes: Mapping[Key, int], steps: Sequence[Step], ends: tuple[set[Key], set[Key]], fixed: set[Key]
) -> dict[Key, Key]:
    """Tensor -> the tensor whose place it takes."""
    readers: dict[Key, int] = {}
    for names in (*ends, fixed, *(step.inputs for step in steps)):
        for name in names:
            readers[name] = readers.get(name, 0) + 1
    shared: dict[Key, Key] = {}
    for step in steps:
        if not step.inplace or not step.outputs or step.outputs[0] not in sizes:
            continue
        output = step.outputs[0]
        for name in (step.inputs[i] for i in step.inplace if i < len(step.inputs)):
            if name not in sizes or name in ends[0] or output in ends[1] or sizes[name] != sizes[output]:
                continue
            if fixed & {name, output} or (not step.unmodified and (sizes[name] <= _SCALAR_BYTES or readers[name] > 1)):
                continue
            root = shared.get(name, name)
            if (step.unmodified or readers.get(root, 0) <= 1) and root != output:
                shared[output] = root
            break
    return shared


def _lifetimes(
    steps: Sequence[Step], begun: Sequence[Key], outputs: set[Key], shared: Mapping[Key, Key]
) -> tuple[dict[Key, int], dict[Key, int]]:
    """Tensor -> step of its first use, and of its last; `begun`: what is there from the start, and stays."""
    first = dict.fromkeys(begun, 0)
    kept = {*begun, *outputs}
    last: dict[Key, int] = {}
    for index, step in enumerate(steps):
        for name in step.outputs:
            first.setdefault(name, index)
        for name in step.inputs:
            last[shared.get(name, name)] = index
        for name in step.scratch:
            first[name] = last[name] = index
    for name in first:
        if name in kept or name not in last:
            last[name] = _FOREVER
    return first, last


def _place(tensors: Sequence[tuple[int, int, int]]) -> tuple[int, list[int]] | None:
    """High-water mark and offsets of (bytes, first, last) placed in this order; best fit among the gaps."""
    active = _Active()
    offsets = []
    high, left = 0, _STEPS
    for size, first, last in tensors:
        met = active.meets(first, last) if size else ()
        left -= len(met)
        if left < 0:
            return None
        at = _gap(met, size, first, last) if size else 0
        offsets.append(at)
        if size:
            high = max(high, at + size)
            active.add((at, size, first, last))
    return high, offsets


_Placed = tuple[int, int, int, int]
"""Offset, bytes, first and last step."""


class _Active:
    """Tensors that have their place, sorted by it; by spans of steps, so that each looks at those near it in time."""

    def __init__(self) -> None:
        self._all: list[_Placed] = []
        self._spans: dict[int, list[_Placed]] = {}
        self._long: list[_Placed] = []

    def add(self, placed: _Placed) -> None:
        bisect.insort(self._all, placed)
        spans = _spans(placed[2], placed[3])
        for part in [self._long] if spans is None else [self._spans.setdefault(span, []) for span in spans]:
            bisect.insort(part, placed)

    def meets(self, first: int, last: int) -> Sequence[_Placed]:
        """All that may be alive between two steps, and perhaps some more."""
        spans = _spans(first, last)
        if spans is None:
            return self._all
        parts = [part for span in spans if (part := self._spans.get(span))]
        parts += [self._long] if self._long else []
        return parts[0] if len(parts) == 1 else sorted({placed for part in parts for placed in part})


def _spans(first: int, last: int) -> range | None:
    """Of the steps between two; None where they are many: a 32-bit Python has no length for a range to `_FOREVER`."""
    begin, end = first // _SPAN, last // _SPAN + 1
    return None if end - begin > _MANY else range(begin, end)


def _gap(active: Sequence[_Placed], size: int, first: int, last: int) -> int:
    best, tightest, current = -1, _FOREVER, 0
    for at, taken, begin, end in active:
        if end < first or begin > last:
            continue
        aligned = _align(current)
        if aligned + size <= at and at - aligned < tightest:
            best, tightest = aligned, at - current
        current = max(current, at + taken)
        if not tightest:
            break
    return best if best >= 0 else _align(current)


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
