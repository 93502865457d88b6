"""Graphs of both formats in one picture, and sub-models cut out of them.

A picture knows tensors by the names that taps use, how their integers stand for real numbers, and which op makes which.
Ops that only convert (QUANTIZE, DequantizeLinear, ...) do not count as layers: `origin` looks through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.base import dequantize, quantize
from edgekit.tensors import INTEGER_RANGE, QuantParams, TensorSpec

Array = NDArray[Any]
Side = Literal["inputs", "outputs"]

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})
_TO_REAL = frozenset({"DEQUANTIZE", "DequantizeLinear"})
_WIDENING = frozenset({"DEQUANTIZE", "DequantizeLinear", "Cast", "CAST"})
_NP_NAMES = {"float32", "float16", "float64"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a picture; `shape` has None where a size is free, and is None where nothing is known."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None = None
    quant: QuantParams | None = None

    @property
    def real(self) -> bool:
        """Whether it stands for real numbers."""
        return self.quant is not None or self.dtype in _NP_NAMES

    def integers(self, real: Array) -> Array:
        """Real values as this tensor stores them."""
        return quantize(real, self._spec(real)) if self.quant is not None else real.astype(self.dtype, copy=False)

    def reals(self, stored: Array) -> Array:
        """What is stored, as float32."""
        if self.quant is not None:
            return dequantize(stored, self._spec(stored))
        return stored.astype(np.float32, copy=False)

    @property
    def representable(self) -> tuple[float, float] | None:
        """Smallest and largest real number that its integers can show; of all channels together."""
        if self.quant is None or self.dtype not in INTEGER_RANGE:
            return None
        low, high = INTEGER_RANGE[self.dtype]
        pairs = list(zip(self.quant.scale, self.quant.zero_point, strict=True))
        return min(s * (low - z) for s, z in pairs), max(s * (high - z) for s, z in pairs)

    def _spec(self, like: Array) -> TensorSpec:
        return TensorSpec(self.name or "tensor", tuple(like.shape), self.dtype, quant=self.quant)


@dataclass(frozen=True)
class Op:
    """An operator; absent inputs are empty names."""

    number: int
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Net:
    """A graph as a picture.

    Attributes:
        format: "tflite" or "onnx".
        inputs, outputs: Names of tensors.
        tensors: All of them, constants included.
        ops: In an order in which they can run.
    """

    format = ""

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], tensors: dict[str, Tensor], ops: list[Op]
    ) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.tensors, self.ops = tensors, ops

    @property
    def public(self) -> dict[str, list[str]]:
        """Side ("inputs", "outputs") -> public names, in the graph's order."""
        raise NotImplementedError

    def place(self, specs: Sequence[TensorSpec], side: Side) -> list[str]:
        """Names of the tensors that these inputs or outputs are."""
        raise NotImplementedError

    @cached_property
    def producer(self) -> dict[str, Op]:
        return {name: op for op in self.ops for name in op.outputs if name}

    @cached_property
    def readers(self) -> dict[str, list[Op]]:
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found.setdefault(name, []).append(op)
        return found

    @cached_property
    def constants(self) -> frozenset[str]:
        """What does not depend on the inputs: stored in the file, or made of such alone."""
        known = set(self._stored_names())
        for op in self.ops:
            if all(not name or name in known for name in op.inputs) and not self._variable(op):
                known.update(op.outputs)
        return frozenset(known)

    def origin(self, name: str) -> str:
        """The tensor whose values these are: back through conversions."""
        while (op := self.producer.get(name)) is not None and op.kind in CONVERSIONS:
            name = op.inputs[0]
        return name

    def seen(self, origin: str) -> str:
        """The tensor that shows an origin's values as the graph goes on with them: its integers, where it has some."""
        if self.tensors[origin].quant is not None:
            return origin
        for op in self.readers.get(origin, ()):
            if op.kind in CONVERSIONS and op.kind not in _TO_REAL:
                return op.outputs[0]
        return origin

    def fed(self, name: str) -> str:
        """The tensor to feed so that `name` holds given values: the integers it was widened from, where there are."""
        op = self.producer.get(name)
        if op is not None and op.kind in _TO_REAL and self.tensors[op.inputs[0]].quant is not None:
            return op.inputs[0]
        return name

    def stored(self, name: str) -> tuple[Tensor, Array] | None:
        """A constant as it is stored in the file: back through what only widens it."""
        while name and (op := self.producer.get(name)) is not None and op.kind in _WIDENING:
            name = op.inputs[0]
        values = self._values(name) if name else None
        return None if values is None else (self.tensors[name], values)

    def open(
        self, inputs: Sequence[str], outputs: Sequence[str], threads: int = 1, *, as_written: bool = False
    ) -> Runner:
        """The part of the graph between these tensors, in the engine.

        Args:
            inputs: What is fed.
            outputs: What is shown.
            threads: Of the engine.
            as_written: Op by op, without the engine's own rewriting of the graph (onnxruntime's); else as on a device.

        Raises:
            EngineError: `calibration-engine`: the engine refuses it.
        """
        raise NotImplementedError

    def put(self, name: str, values: Array) -> None:
        """Give a constant other values, of its dtype and shape: for parts that are opened from now on."""
        raise NotImplementedError

    def needed(self, inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """Those of the inputs that the outputs depend on."""
        read = {name for op in self.between(inputs, outputs) for name in op.inputs}
        return [name for name in dict.fromkeys(inputs) if name in read]

    def between(self, inputs: Iterable[str], outputs: Iterable[str]) -> list[Op]:
        """Ops that the outputs need, going back no further than the inputs."""
        needed: set[int] = set()
        ends = set(inputs)
        waiting = [name for name in outputs if name not in ends]
        while waiting:
            op = self.producer.get(waiting.pop())
            if op is not None and op.number not in needed:
                needed.add(op.number)
                waiting += [name for name in op.inputs if name and name not in ends]
        return [op for op in self.ops if op.number in needed]

    def ends_at(self, target: str, stops: set[str]) -> bool:
        """Whether nothing but constants and these tensors is needed to make `target`."""
        if target in stops:
            return False
        return all(
            name in stops or name not in self.inputs
            for op in self.between(stops, [target])
            for name in op.inputs
            if name
        )

    def _stored_names(self) -> Iterable[str]:
        raise NotImplementedError

    def _values(self, name: str) -> Array | None:
        raise NotImplementedError

    def _variable(self, op: Op) -> bool:
        del op
        return False


class Runner:
    """A sub-model in its engine. Use in `with`."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; arrays of their own."""
        found: dict[str, Array] = {}
        self._session.run(feed, lambda name, values: found.update({name: np.array(values)}))
        return found

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
