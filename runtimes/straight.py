"""The straight way through a model: feeds that are exactly what it takes, at nearly the cost of the bare engine.

`Model.run` tries it first. It answers None for anything that is not exact (another dtype, layout or batch, a value that
is not finite), and the general way then converts, loops, or says what is wrong. Quantization goes through buffers that
are kept, which with the check costs no more than plain numpy expressions cost an app that does it by hand.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from edgekit.errors import FeedError
from edgekit.runtimes.base import Array, Feeds, Session, dequantize, quantize
from edgekit.tensors import INTEGER_RANGE, TensorSpec

Convert = Callable[[Array], "Array | None"]
Restore = Callable[..., Array]


class Straight:
    """One way: raw or real values, or raw ones in (`ready`) and real ones out. Call it with a dict of feeds.

    Args:
        session: Of the engine.
        inputs: What the model takes, and the session's names.
        outputs: What is asked for, and the session's names.
        lock: Held while the engine runs; not where that is concurrent.
        raw: Both ways are raw.
        ready: Feeds are raw, and finite.
    """

    def __init__(
        self,
        session: Session,
        inputs: list[tuple[TensorSpec, str]],
        outputs: list[tuple[TensorSpec, str]],
        lock: AbstractContextManager[Any],
        *,
        raw: bool,
        ready: bool = False,
    ) -> None:
        self._run: Callable[[Feeds], dict[str, Array]] = session.run
        keys, given = [key for _, key in outputs], [spec.name for spec in session.outputs]
        if len(keys) < len(given) and (some := getattr(session, "run_some", None)) is not None:
            self._run, given = functools.partial(some, keys), keys
        # Kept buffers are safe only behind a real lock.
        kept = not session.concurrent
        self._lock = lock if kept else None
        self._inputs = [_entry(spec, key, session, raw=raw or ready, kept=kept, checked=ready) for spec, key in inputs]
        self._outputs = [
            (spec.name, key, None if raw or spec.quant is None else _restorer(spec)) for spec, key in outputs
        ]
        self._as_they_are = keys == given and all(
            name == key and restore is None for name, key, restore in self._outputs
        )
        self._size = len(inputs)
        self._renamed = any(spec.name != key for spec, key in inputs)
        self._run_into = getattr(session, "run_into", None)
        self._dtypes = {spec.name: "object" if spec.dtype == "string" else spec.dtype for spec in session.outputs}
        self._kept: dict[str, Array] = {}
        self._keeps = kept

    def __call__(self, feeds: Mapping[str, Any], out: Mapping[str, Array] | None = None) -> dict[str, Array] | None:
        """The outputs by public name, or None: the feed is not exact."""
        if len(feeds) != self._size:
            return None
        if self._lock is None:
            ready = self._exact(feeds)
            if ready is None:
                return None
            if out is not None:
                return self._into(ready, out)
            answers = self._run(ready)
        else:
            with self._lock:
                ready = self._exact(feeds)
                if ready is None:
                    return None
                if out is not None:
                    return self._into(ready, out)
                answers = self._run(ready)
        return answers if self._as_they_are else self._restored(answers)

    def exact(self, ready: dict[str, Array]) -> dict[str, Array]:
        """The same for what is known to be exact, and needs nothing done to it."""
        if self._renamed:
            ready = {key: ready[name] for name, key, *_ in self._inputs}
        if self._lock is None:
            answers = self._run(ready)
        else:
            with self._lock:
                answers = self._run(ready)
        return answers if self._as_they_are else self._restored(answers)

    def _restored(self, answers: Mapping[str, Array]) -> dict[str, Array]:
        restored = {}  # a loop, because a comprehension costs a call
        for name, key, restore in self._outputs:
            answer = answers[key]
            restored[name] = answer if restore is None else restore(answer)
        return restored

    def _exact(self, feeds: Mapping[str, Any]) -> dict[str, Array] | None:
        """What the session is fed with."""
        ready = {}
        batch = None
        for name, key, dtype, fixed, tail, convert in self._inputs:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype:
                return None
            shape = array.shape
            if shape != fixed:
                if tail is None or not shape or shape[1:] != tail or not shape[0] or batch not in (None, shape[0]):
                    return None
                batch = shape[0]
            if convert is not None and (array := convert(array)) is None:
                return None
            ready[key] = array
        return ready

    def _into(self, ready: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        """Answers into the caller's arrays. Behind the lock: integers that become reals pass through kept arrays."""
        buffers, restored = {}, []
        check_named(out, [name for name, _, _ in self._outputs])
        check_apart(out)
        for name, key, restore in self._outputs:
            if name not in out:
                continue
            target = out[name]
            dtype = np.dtype(np.float32 if restore is not None else self._dtypes[key])
            check_array(name, target, dtype)
            if restore is None:
                buffers[key] = target
                continue
            kept = self._kept.get(key) if self._keeps else None
            if kept is None or kept.shape != target.shape:
                kept = self._kept[key] = np.empty(target.shape, self._dtypes[key])
            buffers[key] = kept
            restored.append((restore, kept, target))
        if self._run_into is None:
            answers = self._run(ready)
            for key, buffer in buffers.items():
                check_shape(key, answers[key].shape, buffer)
                np.copyto(buffer, answers[key])
        else:
            self._run_into(ready, buffers)
        for restore, kept, target in restored:
            restore(kept, target)
        return dict(out)


def fill(out: Mapping[str, Array], answers: Mapping[str, Array]) -> dict[str, Array]:
    """Copy answers into the caller's arrays.

    Raises:
        FeedError: `out-array`.
    """
    check_named(out, list(answers))
    check_apart(out)
    for name, target in out.items():
        check_array(name, target, answers[name].dtype)
        check_shape(name, answers[name].shape, target)
        np.copyto(target, answers[name])
    return dict(out)


def check_named(out: Mapping[str, Array], names: list[str]) -> None:
    for name in out:
        if name not in names:
            raise FeedError("out-array", f"there is no output {name} to write; known: {', '.join(names)}")


def check_apart(out: Mapping[str, Array]) -> None:
    """No answer lies in the memory of another."""
    if len(out) < 2:
        return
    for (name, array), (other, second) in itertools.combinations(out.items(), 2):
        if np.may_share_memory(array, second):
            raise FeedError("out-array", f"{name} and {other} are written into the same memory")


def check_array(name: str, target: Array, dtype: np.dtype[Any]) -> None:
    if type(target) is not np.ndarray or target.dtype != dtype or not target.flags.carray:
        what = f"{target.dtype} array" if isinstance(target, np.ndarray) else type(target).__name__
        raise FeedError("out-array", f"{name} is written into a C-ordered, writable {dtype} array, not this {what}")


def check_shape(name: str, shape: tuple[int, ...], target: Array) -> None:
    """Numpy would broadcast."""
    if shape != target.shape:
        raise FeedError("out-array", f"{name} is {list(shape)}, the array for it {list(target.shape)}")


def _entry(
    spec: TensorSpec, key: str, session: Session, *, raw: bool, kept: bool, checked: bool
) -> tuple[str, str, np.dtype[Any], tuple[int, ...] | None, tuple[int, ...] | None, Convert | None]:
    """Name, the session's name, dtype, the one shape or what follows a free batch, and what to do with the values."""
    real = not raw and spec.quant is not None
    dtype = np.dtype("float32" if real else "object" if spec.dtype == "string" else spec.dtype)
    shape = spec.shape
    if shape and shape[0] is None and not session.batches:
        shape = (1, *shape[1:])
    fixed = None if None in shape else tuple(size for size in shape if size is not None)
    free = fixed is None and None not in shape[1:]
    tail = tuple(size for size in shape[1:] if size is not None) if free else None
    if real:
        convert: Convert | None = _quantizer(spec, fixed if kept else None)
    else:
        sane = _present if spec.missing is True else _finite
        convert = None if checked else sane if dtype.kind == "f" else _strings if spec.dtype == "string" else None
    return spec.name, key, dtype, fixed, tail, convert


def _finite(array: Array) -> Array | None:
    # A search through bytes is far faster than numpy's reduction of booleans.
    return None if 0 in np.isfinite(array).tobytes() else array


def _present(array: Array) -> Array | None:
    """The same where NaN is as good as a number."""
    return None if _finite(array) is None and np.isinf(array).any() else array


def _strings(array: Array) -> Array | None:
    return array if all(isinstance(value, (str, bytes)) for value in array.flat) else None


def _quantizer(spec: TensorSpec, shape: tuple[int, ...] | None) -> Convert:
    """`base.quantize` for finite values; with a shape, the result is one array, valid until the next call."""
    if not shape or spec.quant is None or spec.quant.axis is not None or spec.dtype not in INTEGER_RANGE:
        return lambda array: None if _finite(array) is None else quantize(array, spec)
    # Arrays without axes enter numpy's arithmetic faster than scalars.
    scale, zero = (np.array(value[0], np.float32) for value in (spec.quant.scale, spec.quant.zero_point))
    # Saturated first, as reals, so that no division overflows.
    least, most = (np.array((end - zero) * scale, np.float32) for end in INTEGER_RANGE[spec.dtype])
    real, integers = np.empty(shape, np.float32), np.empty(shape, spec.dtype)
    isfinite, maximum, minimum, divide, rint, add = np.isfinite, np.maximum, np.minimum, np.divide, np.rint, np.add

    def kept(array: Array) -> Array | None:
        if 0 in isfinite(array).tobytes():
            return None
        maximum(array, least, out=real)
        minimum(real, most, out=real)
        divide(real, scale, real)
        rint(real, real)
        add(real, zero, real)
        integers[...] = real
        return integers

    return kept


def _restorer(spec: TensorSpec) -> Restore:
    """Integers to reals, into a new array or a given one."""
    if spec.quant is None or spec.quant.axis is not None or not spec.shape or spec.dtype not in INTEGER_RANGE:

        def general(integers: Array, out: Array | None = None) -> Array:
            real = dequantize(integers, spec)
            if out is None:
                return real
            np.copyto(out, real)
            return out

        return general
    scale, zero = (np.array(value[0], np.float32) for value in (spec.quant.scale, spec.quant.zero_point))
    subtract, multiply = np.subtract, np.multiply
    single = np.float32

    def restored(integers: Array, out: Array | None = None) -> Array:
        real = subtract(integers, zero, out, dtype=single)
        return multiply(real, scale, real)

    return restored
