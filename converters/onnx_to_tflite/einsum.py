"""Einsum of one or two operands, as transpositions, a batched product and sums."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.converters.onnx_to_tflite import steps
from edgekit.converters.onnx_to_tflite.draft import Shape, Tensor
from edgekit.converters.onnx_to_tflite.linears import multiply
from edgekit.converters.onnx_to_tflite.lowering import Lowering
from edgekit.converters.onnx_to_tflite.nodes import Value
from edgekit.converters.onnx_to_tflite.reductions import reduce
from edgekit.converters.onnx_to_tflite.refusal import Refused


def contract(low: Lowering, equation: str, values: Sequence[Value], shape: Shape) -> Tensor:
    """What the equation says, in its output's order of axes."""
    terms, result = _parsed(equation, [value.rank for value in values])
    tensors = [low.get(value) for value in values]
    for at, term in enumerate(terms):
        tensors[at], terms[at] = _diagonal(low, tensors[at], term)
    left, letters = tensors[0], terms[0]
    for right, others, rest in zip(tensors[1:], terms[1:], _rests(terms, result), strict=True):
        left, letters = _pair(low, left, letters, right, others, rest)
    left, letters = _summed(low, left, letters, result)
    made = steps.transpose(low.draft, left, [letters.index(letter) for letter in result])
    return steps.expand(low.draft, made, shape)


def _rests(terms: Sequence[str], result: str) -> list[set[str]]:
    """Letters that are still needed after each product."""
    return [set(result).union(*terms[at + 1 :]) for at in range(1, len(terms))]


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Letters of the operands and of the result; an ellipsis becomes letters of its own."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    operands = left.split(",")
    spare = [chr(code) for code in range(0x391, 0x391 + 16)]
    dots = max((rank - len(term.replace("...", "")) for term, rank in zip(operands, ranks, strict=True)
                if "..." in term), default=0)  # fmt: skip

    def letters(term: str, rank: int) -> str:
        count = rank - len(term.replace("...", ""))
        return term.replace("...", "".join(spare[dots - count : dots]))

    terms = [letters(term, rank) for term, rank in zip(operands, ranks, strict=True)]
    if arrow:
        return terms, right.replace("...", "".join(spare[:dots]))
    flat = "".join(terms)
    once = sorted(letter for letter in set(flat) if flat.count(letter) == 1 and letter not in spare)
    return terms, "".join(spare[:dots]) + "".join(once)


def _diagonal(low: Lowering, x: Tensor, letters: str) -> tuple[Tensor, str]:
    """Letters that stand twice name the elements at which both axes are at the same place."""
    for letter in sorted(set(letters)):
        while letters.count(letter) > 1:
            first, second = letters.index(letter), letters.rindex(letter)
            size = x.shape[first]
            if x.shape[second] != size:
                raise Refused(f"it takes a diagonal of {size} times {x.shape[second]}")
            others = [axis for axis in range(x.rank) if axis not in (first, second)]
            turned = steps.transpose(low.draft, x, [*others, first, second])
            joined = steps.reshape(low.draft, turned, [*turned.shape[:-2], size * size])
            places = low.draft.ints(range(0, size * size, size + 1))
            shape = [*joined.shape[:-1], size]
            x = low.draft.emit("GATHER", [joined, places], shape, axis=joined.rank - 1, batchDims=0)
            letters = "".join(letters[axis] for axis in others) + letter
    return x, letters


def _summed(low: Lowering, x: Tensor, letters: str, kept: str | set[str]) -> tuple[Tensor, str]:
    gone = [at for at, letter in enumerate(letters) if letter not in kept]
    if not gone:
        return x, letters
    return reduce(low, "SUM", x, gone, keep=False), "".join(letter for letter in letters if letter in kept)


def _pair(
    low: Lowering, a: Tensor, left: str, b: Tensor, right: str, kept: set[str]
) -> tuple[Tensor, str]:  # fmt: skip
    """Two operands as one: batch letters, rows, columns, and what is summed over."""
    a, left = _summed(low, a, left, set(right) | kept)
    b, right = _summed(low, b, right, set(left) | kept)
    size = {letter: max(a.shape[left.index(letter)] if letter in left else 1,
                        b.shape[right.index(letter)] if letter in right else 1) for letter in left + right}  # fmt: skip
    batch = [letter for letter in left if letter in right and letter in kept]
    summed = [letter for letter in left if letter in right and letter not in kept]
    rows = [letter for letter in left if letter not in right]
    columns = [letter for letter in right if letter not in left]
    draft = low.draft

    def arranged(x: Tensor, letters: str, *groups: list[str]) -> Tensor:
        order = [letters.index(letter) for group in (batch, *groups) for letter in group]
        moved = steps.transpose(draft, x, order)
        wanted = [size[letter] for group in (batch, *groups) for letter in group]
        moved = steps.expand(draft, moved, wanted)
        return steps.reshape(draft, moved, [size[letter] for letter in batch] + [_count(size, g) for g in groups])

    if a.dtype != "float32" or not summed:
        return _product(low, a, left, b, right, batch, rows, columns, summed)
    x, y = arranged(a, left, rows, summed), arranged(b, right, summed, columns)
    made = multiply(low, x, y)
    letters = [*batch, *rows, *columns]
    return steps.reshape(draft, made, [size[letter] for letter in letters]), "".join(letters)


def _product(
    low: Lowering, a: Tensor, left: str, b: Tensor, right: str, batch: list[str], rows: list[str], columns: list[str],
    summed: list[str],
) -> tuple[Tensor, str]:  # fmt: skip
    """Elementwise, then summed: for what is no matrix product, or not of floats."""
    letters = [*batch, *rows, *columns, *summed]

    def spread(x: Tensor, own: str) -> Tensor:
        moved = steps.transpose(low.draft, x, [own.index(letter) for letter in letters if letter in own])
        sizes = iter(moved.shape)
        return steps.reshape(low.draft, moved, [next(sizes) if letter in own else 1 for letter in letters])

    made = steps.binary(low.draft, "MUL", spread(a, left), spread(b, right))
    return _summed(low, made, "".join(letters), set(batch + rows + columns))


def _count(size: dict[str, int], letters: list[str]) -> int:
    total = 1
    for letter in letters:
        total *= size[letter]
    return total
