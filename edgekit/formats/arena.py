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

ALIGNMENT = 64
"""kDefaultTensorAlignment in tflite/util.h."""

_SCALAR_BYTES = 4
"""kScalarTensorBytes: results this small never share a place."""

_STEPS = 8_000_000
"""Comparisons before the plan is given up: some thousand tensors."""

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
    """

    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    inplace: tuple[int, ...] = ()
    unmodified: bool = False


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
    fixed = {*variables}
    ends = ({*inputs} - fixed, {*outputs})
    shared = _shared(sizes, steps, ends, fixed)
    first, last = _lifetimes(steps, ends, fixed, shared)
    moving = [t for t in first if t in sizes and t not in shared and t not in fixed]
    whole = {t: i for i, t in enumerate(sizes)}
    moving.sort(key=lambda t: (0, whole[t], 0) if first[t] == 0 and last[t] == _FOREVER else (1, -sizes[t], first[t]))
    persistent = _place([(sizes[t], 0, _FOREVER) for t in sorted(fixed & sizes.keys(), key=whole.__getitem__)])
    passing = _place([(sizes[t], first[t], last[t]) for t in moving])
    return None if persistent is None or passing is None else persistent + passing


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
    steps: Sequence[Step], ends: tuple[set[Key], set[Key]], fixed: set[Key], shared: Mapping[Key, Key]
) -> tuple[dict[Key, int], dict[Key, int]]:
    """Tensor -> step of its first use, and of its last."""
    first = dict.fromkeys([*fixed, *ends[0]], 0)
    kept = {*fixed, *ends[0], *ends[1]}
    last: dict[Key, int] = {}
    for index, step in enumerate(steps):
        for name in step.outputs:
            first.setdefault(name, index)
        for name in step.inputs:
            last[shared.get(name, name)] = index
    for name in first:
        if name in kept or name not in last:
            last[name] = _FOREVER
    return first, last


def _place(tensors: Sequence[tuple[int, int, int]]) -> int | None:
    """High-water mark of (bytes, first, last) placed in this order; best fit among the gaps."""
    active: list[tuple[int, int, int, int]] = []
    high = left = 0
    left = _STEPS
    for size, first, last in tensors:
        if not size:
            continue
        left -= len(active)
        if left < 0:
            return None
        at = _gap(active, size, first, last)
        high = max(high, at + size)
        bisect.insort(active, (at, size, first, last))
    return high


def _gap(active: Sequence[tuple[int, int, int, int]], size: int, first: int, last: int) -> int:
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
