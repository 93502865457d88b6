"""Self-test vectors: a proof, inside the artifact, that it works here.

Inputs are regenerated from a recorded seed by a counter-based generator of our own (SplitMix64), because numpy's
generators may change their streams between versions; a few real samples are stored where they cost next to nothing.
Outputs are stored as the engine gave them, thinned to a fixed number of elements where an output is large.

SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.codec import CodecError, decode, encode
from edgekit.errors import ArtifactError
from edgekit.tensors import INTEGER_RANGE, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED_ELEMENTS = 64
"""An output of more elements is thinned to this many, evenly spread."""

LARGEST_INPUT = 1 << 26
"""Elements; a file that asks for more wants the memory, not the test."""

_RANK = 64
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may be off.

    Attributes:
        steps: Integer outputs: by how many steps. Kernels of different CPUs round sums differently by at most one.
        relative: Float outputs: relative to the largest stored magnitude of that output.
    """

    steps: int = 1
    relative: float = 1e-5


@dataclass(frozen=True)
class Vector:
    """One input and its answer.

    Attributes:
        index: Stream of the generator that makes the inputs; None when they are stored.
        inputs: Stored inputs: name -> base64 of the little-endian bytes, batch of one.
        outputs: Name -> base64 of the (thinned) little-endian bytes.
    """

    outputs: dict[str, str]
    index: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SelfTest:
    """All vectors of an artifact.

    Attributes:
        seed: Of the generator.
        ranges: Input name -> (low, high) of generated real values; integer tensors with a scale are quantized
            from them, other integers are drawn from the range itself.
        shapes: Input name -> shape of the generated and stored inputs: free sizes are fixed here.
    """

    seed: int
    ranges: dict[str, tuple[float, float]]
    shapes: dict[str, tuple[int, ...]]
    vectors: tuple[Vector, ...]
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        for name, shape in self.shapes.items():
            if len(shape) > _RANK or any(size < 0 for size in shape) or math.prod(shape) > LARGEST_INPUT:
                raise ValueError(f"{name}: no self-test feeds a tensor of shape {list(shape)[:16]}")
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}: the range {low} to {high} holds no numbers")

    def to_json(self) -> str:
        return json.dumps(encode(self), separators=(",", ":"), sort_keys=True)

    def feeds(self, vector: Vector, inputs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
        """The raw input arrays of one vector, in the tensors' own dtypes.

        Raises:
            ArtifactError: `selftest-invalid`: the vectors do not fit `inputs`.
        """
        try:
            return {spec.name: self._feed(vector, spec, position) for position, spec in enumerate(inputs)}
        except (KeyError, ValueError) as error:
            raise ArtifactError("selftest-invalid", f"the self-test does not fit the inputs: {error}") from error

    def _feed(self, vector: Vector, spec: TensorSpec, position: int) -> NDArray[Any]:
        shape = self.shapes[spec.name]
        if vector.index is None:
            return restore(vector.inputs[spec.name], spec.dtype).reshape(shape)
        return generate(spec, shape, self.ranges[spec.name], self.seed, vector.index * 64 + position)


def parse(text: str | bytes) -> SelfTest:
    """Read the member.

    Raises:
        ArtifactError: `selftest-invalid`.
    """
    try:
        return decode(SelfTest, json.loads(text))
    except (CodecError, ValueError, RecursionError) as error:  # the last: JSON nested without end
        raise ArtifactError("selftest-invalid", f"the self-test vectors cannot be read: {error}") from error


def generate(
    spec: TensorSpec, shape: tuple[int, ...], bounds: tuple[float, float], seed: int, stream: int
) -> NDArray[Any]:
    """Values for one tensor, the same on every machine and numpy version.

    Args:
        spec: Gives dtype and quantization.
        shape: With every size fixed.
        bounds: Low and high of the real values.
        seed: With `stream`, decides the values.
        stream: Tells the tensors and vectors of one seed apart.

    Returns:
        Array of `shape` in the tensor's dtype: reals evenly spread over `bounds`, quantized where `spec` says so.
    """
    import numpy as np

    bits = noise(int(np.prod(shape, dtype=np.int64)), seed, stream)
    unit = (bits >> np.uint64(40)).astype(np.float64) / float(1 << 24)
    low, high = bounds
    real = low + (high - low) * unit
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return (unit < 0.5).reshape(shape)
    if dtype.kind in "iu":
        if spec.quant is not None:
            real = real / spec.quant.scale[0] + spec.quant.zero_point[0]
        else:
            real = np.floor(low + (high - low + 1) * unit)
        limits = INTEGER_RANGE.get(spec.dtype, (low, high))
        real = np.clip(np.rint(real), *limits)
    return real.astype(dtype).reshape(shape)


def noise(count: int, seed: int, stream: int = 0) -> NDArray[Any]:
    """`count` words of SplitMix64 (uint64), the same on every machine and numpy version."""
    import numpy as np

    # Mixed, not multiplied: starts that differ by multiples of the step would give one sequence, shifted.
    start = _mix(_mix(seed & _MASK) + stream & _MASK)
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _mix(z: int) -> int:
    """SplitMix64's output function, on a number: spreads neighboring seeds over all 64 bits."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


def thin(output: NDArray[Any]) -> NDArray[Any]:
    """At most STORED_ELEMENTS elements of `output`, evenly spread, first and last included."""
    import numpy as np

    flat = np.ascontiguousarray(output).reshape(-1)
    if flat.size <= STORED_ELEMENTS:
        return flat
    return flat[np.linspace(0, flat.size - 1, STORED_ELEMENTS).astype(np.int64)]


def store(array: NDArray[Any]) -> str:
    """Base64 of little-endian bytes."""
    import numpy as np

    return base64.b64encode(np.ascontiguousarray(array, _little(str(array.dtype))).tobytes()).decode()


def restore(text: str, dtype: str) -> NDArray[Any]:
    """Inverse of `store`, flat."""
    import numpy as np

    return np.frombuffer(base64.b64decode(text), _little(dtype))


def _little(dtype: str) -> Any:
    import numpy as np

    return np.dtype(dtype).newbyteorder("<")
