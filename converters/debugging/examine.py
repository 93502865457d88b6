"""The runs: the artifact as it is, each layer alone, and each layer's error carried on to the outputs.

*Cumulative* is the artifact as it is: its tensor beside the float graph's. *Isolated* feeds one layer the float values
of what it reads, in the artifact's own integers, and runs it alone in the real engine. What that does to the outputs is
then measured, not guessed: the float graph goes on from the layer's answer to the end. Layers are ranked by that.

Samples go through in blocks whose float activations fit in a fixed budget; sub-models live one at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.converters.debugging import divergence, nets, reasons, rescaling
from edgekit.converters.debugging.layers import Watched, unpaired, watched, weights
from edgekit.converters.debugging.naming import source_layer
from edgekit.converters.debugging.nets import Array
from edgekit.converters.debugging.pairing import Pairing
from edgekit.converters.debugging.pictures import (
    BUDGET,
    ExamineRequest,
    Outputs,
    Pictures,
    paired,
    real_values,
    samples,
)
from edgekit.converters.debugging.reach import reach
from edgekit.converters.debugging.results import Examination, Layer
from edgekit.converters.stages import Feeds
from edgekit.errors import DataError, EngineError

Event = dict[str, Any]
Block = list[tuple[dict[str, Array], dict[str, Array]]]
"""Of each run: what the reference was fed, and its real values by origin."""

_CARRIED = 8
"""Samples whose errors are carried on to the outputs; means over them rank layers alike (docs/debug.md)."""
_CARRIED_BYTES = 4 << 30
"""Bound on the activations that this computes anew, over all layers and samples: it costs a run of the net each."""


def examine(request: ExamineRequest) -> Generator[Event, None, Examination]:
    """Run everything; see the module header.

    Raises:
        UsageError: `debug-interface`: inputs or outputs do not correspond.
        DataError: `debug-feed`, `debug-empty`, and those of `edgekit.data`.
        EngineError: `calibration-engine`: an engine refuses the artifact or the float graph.
    """
    from edgekit.data import open_data

    data = open_data(request.data, request.entrance, Path(request.path).parent)
    pictures = Pictures.of(request)
    step = max(pictures.artifact_entrance.step, pictures.reference_entrance.step)
    arrays = samples(data, step, 16)
    first = next(arrays, None)
    if first is None:
        raise DataError("debug-empty", "there is no sample to compare on")
    found = paired(pictures, first, request)
    witness = divergence.Witness(awake=request.floats)
    ends = {pictures.artifact.origin(mine): name for name, (mine, _) in pictures.outputs.items()}
    ends |= {tensor: name for name, tensor in pictures.artifact_entrance.names.items()}
    work = _Work(pictures, found, watched(pictures.artifact, found), request, witness, ends)
    total = -(-len(data) // step)
    early = [first, *islice(arrays, rescaling.SAMPLES - 1)] if request.rescaled else [first]
    if request.rescaled:
        count = rescaling.rescale(pictures, work.watched, early, request.threads)
        if count:
            work.notes[f"repairs scaled channels of {count} layers: compared in the artifact's scales"] = None
    yield from work.go(chain(early, arrays), total)
    yield {"done": 1, "total": 1}
    return work.finish(len(data))


@dataclass
class _Work:
    """What is counted while the samples go through."""

    pictures: Pictures
    found: Pairing
    watched: list[Watched]
    request: ExamineRequest
    witness: divergence.Witness
    ends: dict[str, str]
    carried: int = 0
    signals: dict[str, float] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    outputs: Outputs | None = None

    def go(self, arrays: Iterator[Feeds], total: int) -> Generator[Event, None, None]:
        """All samples, block by block."""
        artifact, reference = self.pictures.artifact, self.pictures.reference
        origins = list(dict.fromkeys((*(match.reference for match in self.found.values()), *self._reference_outputs())))
        tapped = list(dict.fromkeys(reference.seen(origin) for origin in origins if reference.seen(origin)))
        shown = list(dict.fromkeys((*(layer.seen for layer in self.watched), *artifact.outputs)))
        tapped, shown = ([n for n in names if n not in net.inputs] for net, names in
                         ((reference, tapped), (artifact, shown)))  # fmt: skip
        self.outputs = Outputs(self.pictures, self.request.answers)
        done, size, number = 0, 1, 0
        held: Block = []
        while block := list(islice(arrays, size)):
            with (
                reference.open(reference.inputs, tapped, self.request.threads, as_written=True) as float_runner,
                artifact.open(artifact.inputs, shown, self.request.threads) as runner,
            ):
                for feeds in block:
                    held.append(self._run(feeds, (float_runner, runner), origins, number))
                    number += 1
                    yield {"done": done + len(held), "total": total}
            fitting = max(1, BUDGET // max(1, sum(array.nbytes for array in held[0][1].values())))
            if number == 1 and fitting > 1:
                # The first run tells their size. It joins the next ones, as each layer is opened anew for every block.
                size = fitting - 1
                continue
            yield from self._alone(held, number - len(held), done, total)
            done, size, held = done + len(held), fitting, []
        if held:
            yield from self._alone(held, number - len(held), done, total)

    def _run(
        self, feeds: Feeds, runners: tuple[nets.Runner, nets.Runner], origins: list[str], number: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """One run of both; counts the cumulative figures."""
        pictures = self.pictures
        theirs = pictures.reference_entrance.feed(feeds)
        mine = pictures.artifact_entrance.feed(feeds)
        shown = {**mine, **runners[1].run(mine)}
        real = real_values(pictures.reference, origins, {**theirs, **runners[0].run(theirs)})
        for layer in self.watched:
            stored, expected = shown[layer.seen], real[layer.reference]
            if layer.order is None and not layer.lies(expected, pictures.artifact.tensors[layer.seen].reals(stored)):
                continue
            expected = layer.aligned(expected)
            layer.cumulative.add(expected, stored)
            self.witness.look(layer, number, expected, pictures.artifact.tensors[layer.seen].reals(stored))
        if self.outputs is not None:
            self.outputs.add(shown, real, len(next(iter(feeds.values()))))
        return theirs, real

    def _alone(self, held: Block, number: int, done: int, total: int) -> Generator[Event, None, None]:
        """Each layer by itself, and its error on the way to the outputs."""
        carried = self._carried_now(held)
        for place, layer in enumerate(self.watched):
            if layer.cumulative.empty:
                continue
            answers = self._isolated(layer, held, number)
            if carried and answers and not self.request.floats:
                self._carry(layer, held[:carried], answers[:carried])
            yield {"done": done + len(held) * (place + 1) // len(self.watched), "total": total}
        self.carried += carried
        for _, real in held[:carried]:
            for output in self._reference_outputs():
                self.signals[output] = self.signals.get(output, 0.0) + _energy(real[output])

    def _carried_now(self, held: Block) -> int:
        size = sum(array.nbytes for array in held[0][1].values()) if held else 1
        most = max(1, min(_CARRIED, _CARRIED_BYTES // max(1, size * len(self.watched))))
        return max(0, min(len(held), most - self.carried))

    def _isolated(self, layer: Watched, held: Block, number: int) -> list[Array]:
        """Real answers of a layer given right inputs; counts them."""
        artifact = self.pictures.artifact
        tensor = artifact.tensors[layer.seen]
        if layer.op is None:
            stored = [tensor.integers(layer.aligned(real[layer.reference])) for _, real in held]
        else:
            stored = [] if layer.reads is None else self._answers(layer, self._inputs(layer, held))
        answers = []
        for place, (array, (_, real)) in enumerate(zip(stored, held, strict=False)):
            expected = layer.aligned(real[layer.reference])
            if array.shape != expected.shape:
                return []
            layer.isolated.add(expected, array)
            answers.append(tensor.reals(array))
            self.witness.alone(layer, number + place, expected, answers[-1])
        return answers

    def _inputs(self, layer: Watched, held: Block) -> list[dict[str, Array]]:
        """What a layer reads, from the float graph, in the artifact's own integers."""
        artifact = self.pictures.artifact
        by_origin = {watch.origin: watch for watch in self.watched}
        feeds = []
        for theirs, real in held:
            feed = {}
            for tensor, origin in (layer.reads or {}).items():
                values = {**theirs, **real}[self.found[origin].reference]
                watch = by_origin.get(origin)
                values = self._entered(origin, values) if watch is None else watch.aligned(values)
                feed[tensor] = np.ascontiguousarray(artifact.tensors[tensor].integers(values))
            feeds.append(feed)
        return feeds

    def _answers(self, layer: Watched, feeds: list[dict[str, Array]]) -> list[Array]:
        artifact = self.pictures.artifact
        try:
            with artifact.open(list(layer.reads or {}), [layer.seen], self.request.threads) as runner:
                return [runner.run(feed)[layer.seen] for feed in feeds]
        except EngineError as error:
            layer.reads = None
            kind = layer.op.kind if layer.op else "input"
            self.notes[f"{kind} ({layer.origin}) does not run alone: {error.message}"] = None
            return []

    def _right(self, layer: Watched, feeds: list[dict[str, Array]]) -> list[Array] | None:
        """What the float graph makes of the very inputs that the layer was fed, rounded as they are there.

        So that a layer answers for its own error only, and not for the steps of what it reads. None where the float
        graph has no such part.
        """
        reference, artifact = self.pictures.reference, self.pictures.artifact
        reads = layer.reads or {}
        if not reads or reference.format != artifact.format:
            return None
        inputs = {tensor: self.found[origin].reference for tensor, origin in reads.items()}
        if not reference.ends_at(layer.reference, set(inputs.values())):
            return None
        by_origin = {watch.origin: watch for watch in self.watched}
        made = []
        with reference.open(list(dict.fromkeys(inputs.values())), [layer.reference], self.request.threads) as runner:
            for feed in feeds:
                real = {}
                for tensor, values in feed.items():
                    watch, array = by_origin.get(reads[tensor]), artifact.tensors[tensor].reals(values)
                    real[inputs[tensor]] = array if watch is None else np.ascontiguousarray(watch.restored(array))
                typed = {name: values.astype(reference.tensors[name].dtype or values.dtype, copy=False)
                         for name, values in real.items()}  # fmt: skip
                made.append(layer.aligned(runner.run(typed)[layer.reference]))
        return made

    def _blame(self, layer: Watched, feeds: list[dict[str, Array]], whole: float) -> None:
        """How much of a layer's own error is there because a channel of what it reads is out of all proportion.

        Weights that undo such a channel are tiny beside the others and lose their bits. Measured by running the layer
        without the channel; that share of the error is counted for the layer that made the channel.
        """
        artifact = self.pictures.artifact
        by_origin = {watch.origin: watch for watch in self.watched}
        for tensor, origin in (layer.reads or {}).items():
            maker = by_origin.get(origin)
            spread = None if maker is None else maker.cumulative.spread()
            channels = reasons.outliers(spread.peaks) if spread is not None else []
            if not channels or spread is None or spread.axis is None:
                continue
            without = [{**feed, tensor: _without(feed[tensor], channels, spread.axis, artifact.tensors[tensor])}
                       for feed in feeds]  # fmt: skip
            answers, right = self._answers(layer, without), self._right(layer, without)
            if answers and right is not None:
                real = artifact.tensors[layer.seen].reals
                left = sum(_energy(real(answer) - value) for answer, value in zip(answers, right, strict=True))
                layer.blames[origin] = max(0.0, 1 - left / whole)

    def _entered(self, origin: str, values: Array) -> Array:
        """An input of the graph as the artifact has it."""
        entrance = self.pictures.artifact_entrance
        public = next((name for name, tensor in entrance.names.items() if tensor == origin), None)
        if public is None or entrance.graph == self.pictures.reference_entrance.graph:
            return values
        return entrance.graph.turn({public: values})[public]

    def _carry(self, layer: Watched, held: Block, answers: list[Array]) -> None:
        """Let the float graph go on from its own values and the layer's own error."""
        reference = self.pictures.reference
        layer.measured = True
        plain = [layer.aligned(real[layer.reference]) for _, real in held]
        feeds = self._inputs(layer, held)
        right = self._right(layer, feeds)
        errors = [answer - value for answer, value in zip(answers, right or plain, strict=True)]
        for value, error in zip(plain, errors, strict=True):
            layer.own.add(value, value + error)
        if not any(error.any() for error in errors):
            return
        if right is not None:
            self._blame(layer, feeds, sum(map(_energy, errors)))
        outputs = self._reference_outputs()
        if layer.reference in outputs:
            layer.output_noise[layer.reference] = sum(_energy(layer.restored(error)) for error in errors)
        inputs = [*reference.inputs, layer.reference]
        rest = (output for output in outputs if output != layer.reference)
        shown = [output for output in rest if layer.reference in reference.needed(inputs, [output])]
        if not shown:
            return
        needed = reference.needed(inputs, shown)
        with reference.open(needed, shown, self.request.threads) as runner:
            for value, error, (theirs, real) in zip(plain, errors, held, strict=True):
                back = layer.restored(value + error)
                feed = {name: theirs[name] for name in needed if name in theirs}
                feed[layer.reference] = np.ascontiguousarray(back.reshape(real[layer.reference].shape), np.float32)
                for output, array in runner.run(feed).items():
                    noise = _energy(array.astype(np.float64) - real[output])
                    layer.output_noise[output] = layer.output_noise.get(output, 0.0) + noise

    def _reference_outputs(self) -> list[str]:
        reference = self.pictures.reference
        origins = dict.fromkeys(reference.origin(theirs) for _, theirs in self.pictures.outputs.values())
        return [name for name in origins if reference.tensors[name].real and name not in reference.inputs]

    def finish(self, count: int) -> Examination:
        """Everything as a result."""
        errors = self._errors()
        whole = sum(errors.values())
        layers = [
            self._layer(layer, errors.get(layer.origin), whole) for layer in self.watched if not layer.cumulative.empty
        ]
        floats = self.request.floats
        if not floats:  # what is wrong there is said by `divergence`
            within = reach(self.request.lowered)
            layers = [reasons.explained(layer, layers, self.request.used, within) for layer in layers]
        layers = reasons.ranked(layers)
        kept = {layer.name for layer in layers[: self.request.histograms]}
        histograms = {w.origin: w.cumulative.histogram() for w in self.watched if w.origin in kept}
        layers = [reasons.with_histogram(layer, histograms.get(layer.name)) for layer in layers]
        found = divergence.Divergences((), None)
        if floats:
            outputs = {self.pictures.artifact.origin(name) for name in self.pictures.artifact.outputs}
            names = {w.origin: self._source_layer(w) for w in self.watched}
            found = divergence.first(self.watched, self.witness, self.request.tolerance, names, outputs)
        return Examination(
            samples=count,
            layers=tuple(layers),
            unpaired=unpaired(self.pictures.artifact, self.found),
            outputs=() if self.outputs is None else self.outputs.finish(),
            divergence=found.first,
            diverging=found.all,
            notes=tuple(self.notes),
        )

    def _errors(self) -> dict[str, float]:
        """Layer's tensor -> the error at the outputs that it answers for; see `_blame`."""
        own = {layer.origin: error for layer in self.watched if (error := self._error(layer)) is not None}
        found = dict(own)
        for layer in self.watched:
            shares = {origin: share for origin, share in layer.blames.items() if origin in own}
            for origin, share in shares.items():
                moved = own.get(layer.origin, 0.0) * share / max(1.0, sum(shares.values()))
                found[origin] += moved
                found[layer.origin] -= moved
        return found

    def _error(self, layer: Watched) -> float | None:
        if not layer.measured:
            return None
        shares = [layer.output_noise.get(output, 0.0) / signal for output, signal in self.signals.items() if signal > 0]
        return float(sum(shares) / len(shares)) if shares else None

    def _source_layer(self, layer: Watched) -> str | None:
        found = source_layer(self.request.names, self.pictures.reference, layer.op, layer.reference)
        return found or self.ends.get(layer.origin)

    def _layer(self, layer: Watched, error: float | None, whole: float) -> Layer:
        artifact = self.pictures.artifact
        tensor = artifact.tensors[layer.seen]
        single = tensor.quant is not None and not tensor.quant.per_channel
        spread = layer.cumulative.spread()
        if not layer.isolated.empty:
            spread = replace(spread, clipped=layer.isolated.spread().clipped)
        reads = [artifact.origin(name) for name in (layer.op.inputs if layer.op else ()) if name]
        ranges = {w.origin: w.cumulative.spread() for w in self.watched if w.origin in reads}
        outputs = {artifact.origin(name) for name in artifact.outputs}
        return Layer(
            name=layer.origin,
            source_layer=self._source_layer(layer),
            op=layer.op.kind if layer.op else "input",
            number=layer.op.number if layer.op else -1,
            reference=layer.reference,
            paired_by=layer.how,
            dtype=tensor.dtype,
            shape=tuple(size or 1 for size in tensor.shape or ()),
            scale=tensor.quant.scale[0] if single and tensor.quant else None,
            zero_point=tensor.quant.zero_point[0] if single and tensor.quant else None,
            cumulative=layer.cumulative.figures(),
            isolated=None if layer.isolated.empty else layer.isolated.figures(),
            own=None if layer.own.empty else layer.own.figures(),
            spread=spread,
            contribution=None if error is None else (error / whole if whole else 0.0),
            output_error=error,
            inputs=tuple(dict.fromkeys(reads)),
            weights=weights(artifact, layer.op),
            inputs_range=tuple((ranges[n].low, ranges[n].high) for n in dict.fromkeys(reads) if n in ranges),
            is_output=layer.origin in outputs,
            representable=tensor.representable,
        )


def _without(stored: Array, channels: list[int], axis: int, tensor: nets.Tensor) -> Array:
    """A tensor whose channels hold zero."""
    zero = tensor.quant.zero_point[0] if tensor.quant is not None else 0
    changed = np.moveaxis(stored.copy(), axis, 0)
    changed[channels] = zero
    return np.ascontiguousarray(np.moveaxis(changed, 0, axis))


def _energy(array: Array) -> float:
    flat = np.asarray(array, np.float64).reshape(-1)
    return float(np.dot(flat, flat))
