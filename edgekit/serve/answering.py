"""A worker's desk: what is asked is read, run (together where that changes nothing), and written; unless it is late.

Requests go into one call of the engine only where that does not change an answer: every input and every output has the
free batch as its first axis and no other free size, and two samples that were tried together came out as they do alone.
(A graph that computes a scale from the whole batch, as DynamicQuantizeLinear does, fails this.)
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from edgekit.codec import encode
from edgekit.errors import EdgeKitError, InternalError, LimitError
from edgekit.runtimes.base import Array
from edgekit.runtimes.model import Model
from edgekit.serve import payload, things
from edgekit.serve.bodies import Data, inflated
from edgekit.serve.messages import as_json, document, status_of
from edgekit.serve.payload import Asked
from edgekit.serve.wire import ASK, DATATYPES, KINDS, Kind, Opening
from edgekit.tensors import INTEGER_RANGE, TensorSpec

_SAME = 1e-5
"""Of the largest value of an output: how far floats of the same sample may lie apart, alone and in a batch. Rounding of
another order of sums stays below; scales of the whole batch are off by a step of 8 bits, 4e-3.
"""


class Request(NamedTuple):
    """What was asked; `deadline` by the monotonic clock, 0 for none."""

    number: int
    deadline: float
    kind: Kind
    coding: int
    json: int
    body: Data


class Answer(NamedTuple):
    """`json` as in `wire.TELL`, times in seconds."""

    status: int
    body: bytes
    json: int = 0
    together: int = 0
    parse: float = 0.0
    run: float = 0.0
    write: float = 0.0


class _Read(NamedTuple):
    number: int
    deadline: float
    asked: Asked
    seconds: float
    key: tuple[Any, ...]


def unpacked(frame: bytearray, count: int) -> list[Request]:
    """The requests of a frame; bodies look into it."""
    view, start, found = memoryview(frame), 0, []
    for _ in range(count):
        number, deadline, kind, coding, json, size = ASK.unpack_from(frame, start)
        start += ASK.size
        found.append(Request(number, deadline, KINDS[kind], coding, json, view[start : start + size]))
        start += size
    return found


class Desk:
    """See the module header.

    Args:
        model: Opened.
        opening: How it is named and bounded.
    """

    def __init__(self, model: Model, opening: Opening) -> None:
        self._model = model
        self._bounds = opening.bounds
        self._head = {"model_name": opening.name, "model_version": opening.version}
        inner = model.interpret.embedding  # only monitors look at it
        self._inputs, self._outputs = model.inputs, tuple(one for one in model.outputs if one.name != inner)
        self._together = batches(model)
        self._batch = opening.batch

    def about(self) -> dict[str, Any]:
        """What the server tells of the model."""
        model = self._model
        return {
            "platform": f"edgekit_{model.artifact.format}", "sha256": model.artifact.sha256,
            "batches": self._together, "engine": model.engine, "engine_version": model.engine_version,
            "task": model.interpret.task, "kind": model.preprocess.kind, "labels": list(model.interpret.labels[:1000]),
            "inputs": [_told(spec) for spec in self._inputs], "outputs": [_told(spec) for spec in self._outputs],
        }  # fmt: skip

    def answers(self, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        """One for each, by number, as they are ready."""
        read: list[_Read] = []
        for request in requests:
            if request.kind != "infer":
                yield request.number, self._predicted(request)
                continue
            begun = time.perf_counter()
            try:
                asked = self._asked(request)
            except EdgeKitError as error:
                yield request.number, _failed(error)
                continue
            except Exception:  # noqa: BLE001 - whatever a client sent must not end the worker; a bug is told in the log
                yield request.number, _failed(_bug())
                continue
            key = tuple((name, array.shape[1:], array.dtype.str) for name, array in asked.feeds.items())
            late = request.deadline
            if asked.timeout is not None:
                late = min(late or np.inf, begun_at() + asked.timeout)
            read.append(_Read(request.number, late, asked, time.perf_counter() - begun, (asked.raw, *key)))
        for group in self._groups(read):
            yield from self._run(group)

    def _asked(self, request: Request) -> Asked:
        body = inflated(request.body, request.coding, self._bounds)
        return payload.ask(body, request.json, self._inputs, self._outputs, self._bounds)

    def _groups(self, read: list[_Read]) -> Iterator[list[_Read]]:
        if not self._together:
            yield from ([one] for one in read)
            return
        groups: dict[tuple[Any, ...], list[_Read]] = {}
        for one in read:
            groups.setdefault(one.key, []).append(one)
        for group in groups.values():
            yield from (group[start : start + self._batch] for start in range(0, len(group), self._batch))

    def _run(self, group: list[_Read]) -> Iterator[tuple[int, Answer]]:
        now = begun_at()
        fresh = []
        for one in group:
            if one.deadline and now > one.deadline:
                yield one.number, _failed(LimitError("deadline-passed", "its deadline passed before it was run"))
            else:
                fresh.append(one)
        if not fresh:
            return
        begun = time.perf_counter()
        try:
            answers = self._answered(fresh)
        except EdgeKitError as error:
            if len(fresh) == 1:
                yield fresh[0].number, _failed(error)
                return
            for one in fresh:  # only those fail that must
                yield from self._run([one])
            return
        except Exception:  # noqa: BLE001 - as above
            for one in fresh:
                yield one.number, _failed(_bug())
            return
        run = time.perf_counter() - begun
        for one, outputs in zip(fresh, answers, strict=True):
            begun = time.perf_counter()
            body, json = payload.answer(self._head, outputs, self._outputs, one.asked)
            write = time.perf_counter() - begun
            yield one.number, Answer(200, body, json, len(fresh), one.seconds, run, write)

    def _answered(self, group: list[_Read]) -> list[dict[str, Array]]:
        """Outputs of each, by one call."""
        first = group[0].asked
        if len(group) == 1:
            return [self._model.run(first.feeds, raw=first.raw)]
        counts = [next(iter(one.asked.feeds.values())).shape[0] for one in group]
        feeds = {name: np.concatenate([one.asked.feeds[name] for one in group]) for name in first.feeds}
        outputs = self._model.run(feeds, raw=first.raw)
        if any(array.shape[:1] != (sum(counts),) for array in outputs.values()):
            self._together = False  # its outputs are not one a sample, whatever their shapes promise
            return [self._model.run(one.asked.feeds, raw=one.asked.raw) for one in group]
        ends = np.cumsum(counts)
        return [
            {name: array[end - count : end] for name, array in outputs.items()}
            for count, end in zip(counts, ends, strict=True)
        ]

    def _predicted(self, request: Request) -> Answer:
        begun = time.perf_counter()
        try:
            body = inflated(request.body, request.coding, self._bounds)
            thing = things.thing(body, request.kind, self._model, self._bounds)
            if request.deadline and begun_at() > request.deadline:
                raise LimitError("deadline-passed", "its deadline passed before it was run")
            parsed = time.perf_counter()
            answer = things.told(self._model.predict(thing))
            ran = time.perf_counter()
            made = as_json({**self._head, "answer": answer})
        except EdgeKitError as error:
            return _failed(error)
        except Exception:  # noqa: BLE001 - as above
            return _failed(_bug())
        return Answer(200, made, 0, 1, parsed - begun, ran - parsed, time.perf_counter() - ran)


def batches(model: Model) -> bool:
    """Whether one call may answer several requests; see the module header."""
    specs = (*model.inputs, *model.outputs)
    free = all(spec.shape and spec.shape[0] is None and None not in spec.shape[1:] for spec in specs)
    if not (free and model.inputs and model.takes_batches) or any(spec.dtype == "string" for spec in specs):
        return False
    dice = np.random.default_rng(0)
    feeds = {spec.name: _tried(spec, dice) for spec in model.inputs}
    try:
        both = model.run(feeds, raw=True)
        alone = [model.run({n: a[i : i + 1] for n, a in feeds.items()}, raw=True) for i in range(2)]
    except EdgeKitError:
        return False  # each request alone is then answered, or refused with its own error
    return all(_equal(both[spec.name], [one[spec.name] for one in alone]) for spec in model.outputs)


def _tried(spec: TensorSpec, dice: np.random.Generator) -> Array:
    """Two samples, the second of ten times the range; integers that may be indices stay 0 and 1."""
    shape = [2, *(size or 1 for size in spec.shape[1:])]
    if spec.quant is not None and spec.dtype in INTEGER_RANGE:
        low, high = INTEGER_RANGE[spec.dtype]
        return np.asarray(dice.integers(low, high, shape, endpoint=True).astype(spec.dtype))
    if spec.dtype.startswith("float"):
        return np.asarray(dice.normal(size=shape) * np.reshape([1, 10], [2] + [1] * (len(shape) - 1)), spec.dtype)
    return np.asarray(dice.integers(0, 1, shape, endpoint=True).astype(spec.dtype))


def _equal(both: Array, alone: list[Array]) -> bool:
    if both.shape[:1] != (2,) or any(one.shape[:1] != (1,) for one in alone):
        return False
    apart = np.concatenate(alone)
    if both.dtype.kind != "f":
        return np.array_equal(both, apart)
    largest = float(np.max(np.abs(apart), initial=0.0))
    return bool(np.all(np.abs(both - apart) <= _SAME * largest))


def begun_at() -> float:
    """The clock of deadlines: the same in all processes of a machine."""
    return time.monotonic()


def _told(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol's metadata has it; of integers that stand for reals, also their scale."""
    about: dict[str, Any] = {
        "name": spec.name,
        "datatype": payload.datatype(spec),
        "shape": [-1 if size is None else size for size in spec.shape],
    }
    if spec.quant is not None:
        about["parameters"] = {"raw_datatype": DATATYPES[spec.dtype], **encode(spec.quant)}
    return about


def _failed(error: EdgeKitError) -> Answer:
    return Answer(status_of(error), document(error))


def _bug() -> InternalError:
    """Ours, or an engine's: told where the server logs, and to nobody else."""
    traceback.print_exc(file=sys.stderr)
    return InternalError("internal", "the server failed")
