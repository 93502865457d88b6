"""A recorded program with operations that torch.onnx writes, and writes rightly.

What it does not know, or gets wrong (an LSTM with projections, an average with a divisor of its own), is written here
in simpler operations, by the function that PyTorch documents for it. An operation is only touched where that is so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

_LONGEST = 512
"""Steps of an LSTM that are written out."""

_FEW_ROWS = 25
"""Up to so many rows `torch.cdist` goes by differences unless told otherwise."""

Spelling = Callable[..., Any]


def spelled(program: Any) -> Any:
    """The program, or one in which such operations are written out."""
    table = _table()
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    wanted = {
        target: how
        for target, (odd, how) in table.items()
        if target in used and any(node.target is target and odd(node) for node in program.graph.nodes)
    }
    return program.run_decompositions(wanted) if wanted else program


def _table() -> dict[Any, tuple[Callable[[Any], bool], Spelling]]:
    """Operation -> whether a node of it needs to be written out, and how."""
    import torch
    from torch._decomp.decompositions import lstm_impl

    aten = torch.ops.aten
    averages = (aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d)
    maxima = (aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d)
    divided = (aten.avg_pool2d, aten.avg_pool3d)
    spelled = torch.ops.aten._convolution  # noqa: SLF001 - its name
    return {
        spelled.default: (_always, _convolution),
        spelled.deprecated: (_always, _convolution),
        aten.lstm.input: (_projects, lstm_impl),
        aten.cdist.default: (_by_differences, _distances),
        aten.searchsorted.Tensor: (_always, _searched),
        aten.hypot.default: (_always, lambda x, y: (x * x + y * y).sqrt()),
        **{pool.default: (_has_divisor, _divided(pool.default)) for pool in divided},
        **{pool.default: (_is_uneven, _averages) for pool in averages},
        **{pool.default: (_is_uneven_and_placeless, _maxima) for pool in maxima},
    }


def _always(node: Any) -> bool:
    del node
    return True


def _convolution(x: Any, weight: Any, bias: Any, *about: Any) -> Any:
    """As TorchScript spells it."""
    import torch

    return torch.ops.aten.convolution(x, weight, bias, *about[:6])


def _projects(node: Any) -> bool:
    """Whether an LSTM's output has another size than its state, over a number of steps that is known."""
    h, c = (state.meta["val"].shape for state in node.args[1])
    steps = node.args[0].meta["val"].shape[1 if _argument(node, 8, "batch_first", False) else 0]
    return h[2] != c[2] and isinstance(steps, int) and steps <= _LONGEST


def _argument(node: Any, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _by_differences(node: Any) -> bool:
    """Whether PyTorch goes by the differences, and not by a product of matrices, which ONNX has: other norms than
    the Euclidean one, and that of few rows (aten's `cdist_impl`; mode 1: always the product, 2: never).
    """
    rows = [operand.meta["val"].shape[-2] for operand in node.args[:2]]
    mode = _argument(node, 3, "compute_mode", None) or 0
    few = all(isinstance(size, int) and size <= _FEW_ROWS for size in rows)
    return float(_argument(node, 2, "p", 2.0)) != 2.0 or mode == 2 or (mode == 0 and few)


def _distances(x: Any, y: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    """The p-norm of the difference of each row of x and each of y."""
    import torch

    del compute_mode
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 0.0:
        return (apart != 0).to(x.dtype).sum(-1)
    if p == 1.0:
        return apart.sum(-1)
    return torch.amax(apart, -1) if math.isinf(p) else (apart**p).sum(-1) ** (1 / p)


def _searched(
    row: Any, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """How many elements of a sorted row are below each value (or at it, from the right)."""
    import torch

    if sorter is not None:
        return NotImplemented
    below = values.unsqueeze(-1)
    row = row if row.dim() == 1 else row.unsqueeze(-2)
    there = below >= row if right or side == "right" else below > row
    return there.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _has_divisor(node: Any) -> bool:
    ceiling, divisor = _argument(node, 4, "ceil_mode", False), _argument(node, 6, "divisor_override", None)
    return divisor is not None and not ceiling


def _divided(pool: Any) -> Spelling:
    """An average over a window, by another number than that of its elements."""

    def how(
        x: Any,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None or ceil_mode:
            return NotImplemented
        del count_include_pad
        axes = x.dim() - 2 if len(kernel) == 1 else len(kernel)
        area = math.prod(kernel) if len(kernel) == axes else kernel[0] ** axes
        return pool(x, kernel, stride, padding, False, True) * (area / divisor_override)

    return how


def _is_uneven(node: Any) -> bool:
    """Whether an adaptive pool has windows of several sizes, along axes of known size."""
    shape, wanted = node.args[0].meta["val"].shape, _argument(node, 1, "output_size", ())
    sizes = shape[len(shape) - len(wanted) :]
    known = all(isinstance(size, int) for size in sizes)
    return known and any(size % out for size, out in zip(sizes, wanted, strict=True))


def _is_uneven_and_placeless(node: Any) -> bool:
    """The same of a maximum, where no pool of the program is asked where its maxima lie."""
    import operator

    taken = [user for pool in node.graph.nodes if pool.target is node.target for user in pool.users]
    placeless = all(user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in taken)
    return placeless and _is_uneven(node)


def _averages(x: Any, output_size: Sequence[int]) -> Any:
    """Along each axis, a product with a matrix of each window's shares."""
    import torch

    for at, out in enumerate(output_size):
        axis = x.dim() - len(output_size) + at
        size = x.shape[axis]
        if size == out:
            continue
        places, windows = torch.arange(size).unsqueeze(1), torch.arange(out)
        first, last = _window(windows, size, out)
        shares = ((places >= first) & (places < last)).to(x.dtype) / (last - first).to(x.dtype)
        x = torch.matmul(x.transpose(axis, -1), shares).transpose(axis, -1)
    return x


def _window(at: Any, size: int, out: int) -> tuple[Any, Any]:
    """Where a window begins and ends; PyTorch's rule."""
    return at * size // out, -(-(at + 1) * size // out)


def _maxima(x: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
    """The largest of each window, axis by axis; where it lies nobody asks."""
    import torch

    for at, out in enumerate(output_size):
        axis = x.dim() - len(output_size) + at
        ends = [_window(window, x.shape[axis], out) for window in range(out)]
        x = torch.cat([torch.amax(x.narrow(axis, a, b - a), axis, keepdim=True) for a, b in ends], axis)
    return x, torch.zeros(x.shape, dtype=torch.int64)
