"""Both graphs of an examination: how they are fed, which tensors belong together, and how their outputs compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import npz
from edgekit.converters.debugging import pairing
from edgekit.converters.debugging.figures import decibels
from edgekit.converters.debugging.layers import unpaired
from edgekit.converters.debugging.naming import Names
from edgekit.converters.debugging.nets import Array, Net, Side
from edgekit.converters.debugging.pairing import Pairing, comparable, orders
from edgekit.converters.debugging.readers import OnnxNet, TFLiteNet
from edgekit.converters.debugging.results import Output
from edgekit.converters.stages import Feeds, Graph
from edgekit.data import Dataset
from edgekit.data_ref import DataRef
from edgekit.errors import DataError, UsageError
from edgekit.tensors import TensorSpec, whole

BUDGET = 192 << 20
"""Bytes of float activations that are held at a time, over all samples of a block."""


@dataclass(frozen=True)
class Entrance:
    """How public inputs become a net's own.

    Attributes:
        net: Whose.
        names: Public name -> tensor.
        graph: Knows how axes and values lie there, where that is otherwise than in the source.
    """

    net: Net
    names: Mapping[str, str]
    graph: Graph

    def feed(self, arrays: Feeds) -> dict[str, Array]:
        """What the net's tensors are fed for some samples.

        Raises:
            DataError: `debug-feed`: the samples do not fit.
        """
        turned = self.graph.turn(arrays)
        return {tensor: self._fed(name, tensor, turned[name]) for name, tensor in self.names.items()}

    @property
    def step(self) -> int:
        """Samples a run: the size of the batch where it is fixed, else 1."""
        if whole(self.graph.inputs, self.graph.outputs):
            return 1
        shapes = [self.net.tensors[tensor].shape for tensor in self.names.values()]
        firsts = {shape[0] for shape in shapes if shape}
        only = firsts.pop() if len(firsts) == 1 else None
        return only or 1

    def _fed(self, name: str, tensor: str, array: Array) -> Array:
        about = self.net.tensors[tensor]
        shape = about.shape
        if shape is not None and len(shape) == array.ndim - 1:
            array = array[0]  # an input without a batch axis
        if shape is not None and not _fits(array.shape, shape):
            sizes = tuple(a if size is None else size for size, a in zip(shape, array.shape, strict=False))
            found = orders(sizes, array.shape) if len(sizes) == array.ndim else []
            if not found:
                raise DataError(
                    "debug-feed", f"{name} has samples of {list(array.shape[1:])}, {tensor} takes {list(shape)}"
                )
            array = array.transpose(found[0])
        return np.ascontiguousarray(about.integers(array))


def samples(data: Dataset, step: int, size: int) -> Iterator[Feeds]:
    """Arrays by public name, `step` samples each; the last are filled up with their end."""
    for batch in data.batches(max(step, size // step * step)):
        count = len(next(iter(batch.feeds.values())))
        for start in range(0, count, step):
            part = {name: array[start : start + step] for name, array in batch.feeds.items()}
            missing = step - min(step, count - start)
            if missing:
                part = {name: np.concatenate([a, np.repeat(a[-1:], missing, axis=0)]) for name, a in part.items()}
            yield part


def real_values(net: Net, origins: Sequence[str], found: Mapping[str, Array]) -> dict[str, Array]:
    """Origins -> real numbers, from what was shown of `net.seen` of them."""
    return {o: net.tensors[net.seen(o)].reals(found[net.seen(o)]) for o in origins if net.seen(o) in found}


def _fits(actual: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(actual) == len(wanted) and all(w in (a, None) for a, w in zip(actual, wanted, strict=True))


@dataclass(frozen=True)
class ExamineRequest:
    """Compare an artifact with the float graph.

    Attributes:
        path, format: The artifact's model.
        inputs, outputs: Its interface by public names; empty for a foreign file, whose names or places decide.
        reference: The float graph.
        entrance: Public inputs, as the data feeds them.
        lowered: The float graph of the artifact's own format, whose inputs lie as the artifact's do.
        data: Samples.
        answers: Folder of the source's own answers, batch by batch, or None.
        names: What the source calls its layers.
        floats: The artifact computes in floats only: look for a divergence.
        used: Options of the conversion that need not be recommended: "--precision int8".
        rescaled: Repairs may have scaled channels against each other.
        tolerance: For that: largest error as a share of a tensor's range.
        threads: Of the engine.
        histograms: How many of the worst layers keep theirs.
    """

    path: str
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    reference: Graph
    entrance: tuple[TensorSpec, ...]
    lowered: Graph
    data: DataRef
    answers: str | None
    names: Names
    floats: bool
    used: tuple[str, ...] = ()
    rescaled: bool = False
    tolerance: float = 1e-4
    threads: int = 2
    histograms: int = 6


@dataclass
class Pictures:
    """Both graphs and their entrances and ends."""

    artifact: Net
    reference: Net
    artifact_entrance: Entrance
    reference_entrance: Entrance
    ends: dict[str, str]
    outputs: dict[str, tuple[str, str]]

    @staticmethod
    def of(request: ExamineRequest) -> Pictures:
        artifact = read(request.format, Path(request.path).read_bytes())
        reference = read(request.reference.format, Path(request.reference.path).read_bytes())
        sides: tuple[Side, Side] = ("inputs", "outputs")
        theirs = {side: _named(reference, getattr(request.reference, side), side) for side in sides}
        mine = {side: _ours(artifact, getattr(request, side), list(theirs[side]), side) for side in sides}
        ends = {mine[side][name]: theirs[side][name] for side in sides for name in theirs[side]}
        outputs = {name: (mine["outputs"][name], theirs["outputs"][name]) for name in theirs["outputs"]}
        return Pictures(
            artifact,
            reference,
            Entrance(artifact, mine["inputs"], request.lowered),
            Entrance(reference, theirs["inputs"], request.reference),
            ends,
            outputs,
        )


def _named(net: Net, specs: tuple[TensorSpec, ...], side: Side) -> dict[str, str]:
    places = net.place(specs, side)
    return dict(zip((spec.name for spec in specs), places, strict=True))


def _ours(net: Net, specs: tuple[TensorSpec, ...], public: list[str], side: Side) -> dict[str, str]:
    """Public name -> tensor of the artifact: by its manifest, by equal names, or by place."""
    ends: tuple[str, ...] = getattr(net, side)
    if {spec.name for spec in specs} == set(public):
        return _named(net, specs, side)
    said: list[str] = net.public[side]
    by_name = {name: tensor for known in (ends, said) for name, tensor in zip(known, ends, strict=True)}
    if set(public) <= set(by_name):
        return {name: by_name[name] for name in public}
    if len(public) != len(ends):
        raise UsageError(
            "debug-interface",
            f"the artifact has the {side} {', '.join(said)}; the source's are {', '.join(public)}",
        )
    return dict(zip(public, ends, strict=True))


def paired(pictures: Pictures, first: Feeds, request: ExamineRequest) -> Pairing:
    """Pair by names and structure, and what is left by the first sample's values."""
    artifact, reference = pictures.artifact, pictures.reference
    found = pairing.pair(artifact, reference, pictures.ends)
    if not unpaired(artifact, found) and all(match.how != "structure" for match in found.values()):
        return found
    values = pairing.Values(
        _show(pictures.artifact_entrance, first, request.threads),
        _show(pictures.reference_entrance, first, request.threads),
    )
    found = pairing.pair(artifact, reference, pictures.ends, values)
    return found | pairing.by_values(artifact, found, values, floats=request.floats)


def _show(entrance: Entrance, sample: Feeds, threads: int) -> dict[str, Array]:
    """Real values of all tensors that can be compared."""
    net = entrance.net
    origins = [name for op in pairing.layers(net) for name in op.outputs if comparable(net, name)]
    shown = list(dict.fromkeys(net.seen(origin) for origin in origins))
    with net.open(net.inputs, shown, threads) as runner:
        return real_values(net, origins, runner.run(entrance.feed(sample)))


def read(format: str, data: bytes) -> Net:
    """The picture of a model file.

    Raises:
        SourceError: `tflite-unreadable`.
    """
    return TFLiteNet(data) if format == "tflite" else OnnxNet(data)


class Outputs:
    """The artifact's outputs, and the float graph's, beside the source's own answers."""

    def __init__(self, pictures: Pictures, folder: str | None) -> None:
        self._pictures = pictures
        self._answers = None if folder is None else _rows(Path(folder))
        self._sums = {name: np.zeros(3) for name in pictures.outputs}
        self._worst = {name: np.array([np.inf, -np.inf, 0.0, 0.0]) for name in pictures.outputs}

    def add(self, shown: dict[str, Array], real: dict[str, Array], samples: int) -> None:
        """What so many samples, the next ones, were answered."""
        if self._answers is None:
            return
        source = self._answers(samples)
        for name, (mine, theirs) in self._pictures.outputs.items():
            origin = self._pictures.reference.origin(theirs)
            if origin not in real or not self._pictures.artifact.tensors[mine].real:
                continue
            lowered = real[origin].astype(np.float64)
            answer = self._pictures.artifact.tensors[mine].reals(shown[mine]).astype(np.float64)
            expected = source.get(name)
            if expected is None or expected.size == 0:
                continue
            self._count(name, expected.astype(np.float64), answer, lowered)

    def _count(self, name: str, expected: Array, answer: Array, lowered: Array) -> None:
        errors = []
        for found in (answer, lowered):
            part = found[: len(expected)] if found.ndim == expected.ndim else found
            axes = pairing.orders(part.shape, expected.shape)
            turned = expected.transpose(axes[0]) if axes else expected.reshape(part.shape)
            errors.append(part - turned)
        self._sums[name] += [float(np.square(expected).sum()), *(float(np.square(error).sum()) for error in errors)]
        low, high, *worst = self._worst[name]
        peaks = [max(before, float(np.abs(error).max())) for before, error in zip(worst, errors, strict=True)]
        self._worst[name] = np.array([min(low, expected.min()), max(high, expected.max()), *peaks])

    def finish(self) -> tuple[Output, ...]:
        found = []
        for name, (signal, noise, lowered) in self._sums.items():
            low, high, worst, worst_lowered = map(float, self._worst[name])
            if high < low:
                continue
            span = (high - low) or 1.0
            found.append(
                Output(name, decibels(signal, noise), decibels(signal, lowered), worst / span, worst_lowered / span)
            )
        return tuple(found)


def _rows(folder: Path) -> Any:
    """Takes the next rows of answers that lie in files, batch by batch."""

    def stored() -> Iterator[dict[str, Array]]:
        for file in sorted(folder.glob("[0-9]*.npz")):
            held = npz.read(file)
            for row in range(len(next(iter(held.values())))):
                yield {name: array[row : row + 1] for name, array in held.items()}

    rows = stored()

    def take(count: int) -> dict[str, Array]:
        part = list(islice(rows, count))
        return {name: np.concatenate([row[name] for row in part]) for name in part[0]} if part else {}

    return take
