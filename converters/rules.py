"""Which layers the rules of mixed precision mean, in a float graph of either format.

A layer goes by the names of its tensors, by its node's name, and by every run of the path components in them: `block_1`
means all that lies in it, `block_1/conv` one layer. TFLite's converter fuses operators and joins their names
("a/Relu;a/BiasAdd;b/Conv2D;a/Conv2D1"), among them names of other layers whose constants it shares: a name in the
middle counts only where no other operator begins or ends with its layer.

Rules are matched on the float graph as the user sees it. Quantizers first fold operators into one; what an operator
then stands for is all that lies between the tensors that it reads and those that it makes, and the last rule on any of
it decides.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgekit.errors import UsageError
from edgekit.rules import LayerPrecision, Rule

_NOISE = re.compile(r"(/ReadVariableOp|/resource).*$")
_SHOWN = 6


@dataclass(frozen=True)
class Layer:
    """An operator of a float graph.

    Attributes:
        kind: As the format spells it.
        read, made: Names of tensors.
        name: The node's own, where the format has names for nodes.
    """

    kind: str
    read: tuple[str, ...]
    made: tuple[str, ...]
    name: str = ""


def assign(layers: Sequence[Layer], rules: Sequence[Rule]) -> dict[str, int]:
    """Number of the last rule on each layer, by the tensors that it makes; layers without a rule are left out.

    Raises:
        UsageError: `rule-unmatched`: a rule means no layer; lists close names.
    """
    names = _names(layers)
    found: dict[str, int] = {}
    for number, rule in enumerate(rules):
        meant = [
            layer
            for layer, known in zip(layers, names, strict=True)
            if _is(layer.kind, rule.op) and _in(layer, known, rule)
        ]
        if not meant:
            raise _unmatched(rule, layers, names)
        found |= {tensor: number for layer in meant for tensor in layer.made}
    return found


def settle(layers: Sequence[Layer], now: Iterable[Layer], marked: Mapping[str, int]) -> dict[str, int]:
    """The same numbers for the operators that a graph has after its layers were folded, by the tensors they make.

    Args:
        layers: Of the float graph.
        now: Of the graph after folding; tensors that both have keep their names.
        marked: From `assign`.
    """
    maker = {tensor: layer for layer in layers for tensor in layer.made}
    now = list(now)
    left = {tensor for layer in now for tensor in (*layer.read, *layer.made)}
    found: dict[str, int] = {}
    for layer in now:
        last = max((marked.get(tensor, -1) for tensor in _inside(layer, maker, left)), default=-1)
        if last >= 0:
            found |= dict.fromkeys(layer.made, last)
    return found


def _inside(layer: Layer, maker: Mapping[str, Layer], left: Container[str]) -> set[str]:
    """Tensors of the float graph that `layer` makes, and those before them that are not `left` in the graph."""
    seen: set[str] = set()
    waiting = [*layer.made]
    while waiting:
        tensor = waiting.pop()
        if tensor not in seen:
            seen.add(tensor)
            waiting += [name for name in (maker[tensor].read if tensor in maker else ()) if name not in left]
    return seen


def named(layers: Sequence[Layer], name: str) -> tuple[list[Layer], list[str]]:
    """Layers that a name means, in their order; and where it means none, names close to it."""
    names = _names(layers)
    found = [layer for layer, known in zip(layers, names, strict=True) if any(fnmatchcase(one, name) for one in known)]
    return found, [] if found else _close(name, layers, names)


def layer_names(layers: Sequence[Layer]) -> list[str]:
    """One plain name a layer, for lists: the first of what was fused, without the scope that the rest repeats."""
    return [layer.made[0].split(";", 1)[0] if layer.made else layer.name for layer in layers]


def _is(kind: str, wanted: str) -> bool:
    return fnmatchcase(_plain(kind), _plain(wanted))


def _plain(kind: str) -> str:
    return kind.replace("_", "").upper()


def _in(layer: Layer, names: frozenset[str], rule: Rule) -> bool:
    if rule.tensor is not None:
        return rule.tensor in layer.made
    if rule.pattern is not None:
        expression = re.compile(rule.pattern)
        return any(expression.search(name) for name in names)
    return any(fnmatchcase(name, rule.scope) for name in names)


def _names(layers: Sequence[Layer]) -> list[frozenset[str]]:
    """All names that each layer goes by."""
    steps = [[step for tensor in layer.made for step in tensor.split(";")] for layer in layers]
    claims: dict[str, set[int]] = {}
    for number, parts in enumerate(steps):
        for step in (parts[:1], parts[-1:]):
            claims.setdefault(_layer_of(step[0]) if step else "", set()).add(number)
    found = []
    for number, (layer, parts) in enumerate(zip(layers, steps, strict=True)):
        own = [
            step
            for place, step in enumerate(parts)
            if place in (0, len(parts) - 1) or claims.get(_layer_of(step), {number}) == {number}
        ]
        own += [layer.name] if layer.name else []
        found.append(frozenset((*layer.made, *(name for step in own for name in _runs(step)))))
    return found


def _layer_of(step: str) -> str:
    return _NOISE.sub("", step).rpartition("/")[0]


def _runs(step: str) -> Iterable[str]:
    parts = [part for part in _NOISE.sub("", step).split("/") if part]
    yield step
    for start in range(len(parts)):
        for end in range(start, len(parts)):
            yield "/".join(parts[start : end + 1])


def _unmatched(rule: Rule, layers: Sequence[Layer], names: Sequence[frozenset[str]]) -> UsageError:
    kinds = sorted({layer.kind for layer in layers})
    inside = sorted({layer.kind for layer, known in zip(layers, names, strict=True) if _in(layer, known, rule)})
    if inside:
        near, what = inside, f"the operators there are {', '.join(inside)}"
    elif not any(_is(kind, rule.op) for kind in kinds):
        near, what = kinds, f"the model's operators are {', '.join(kinds)}"
    else:
        near = _close(rule.scope, layers, names)
        what = f"close to it: {', '.join(near)}"
    return UsageError("rule-unmatched", f"no layer of the model is meant by the rule {rule}; {what}", near=near)


def _close(name: str, layers: Sequence[Layer], names: Sequence[frozenset[str]]) -> list[str]:
    every = sorted({one for known in names for one in known})
    return difflib.get_close_matches(name.strip("*"), every, _SHOWN, 0.4) or layer_names(layers)[:_SHOWN]


def precisions(numbers: Mapping[str, int], rules: Sequence[Rule], base: str) -> dict[str, LayerPrecision]:
    """Tensor -> precision, of those that leave the model's own."""
    return {name: rules[number].precision for name, number in numbers.items() if rules[number].precision != base}
