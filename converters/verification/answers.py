"""Answers of a source, in files: any number of samples fits, and another process can read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import npz
from edgekit.converters.stages import Feeds


@dataclass(frozen=True)
class Answers:
    """Files of answers, batch by batch: `NNNNNN.npz`, an array an output, in the order of the data; edge cases too,
    as they are and nudged (see `probes.nudged`).

    Attributes:
        mixed: Outputs that answer a sample otherwise when it is alone.
    """

    folder: str
    samples: int
    edges: tuple[str, ...] = ()
    nudged: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()


ALONE = 1e-3
"""Share of an output's range by which sums in another order never differ."""


def mixed(together: Feeds, alone: Feeds, at: int = 0) -> tuple[str, ...]:
    """Outputs whose sample number `at`, of [n, ...] and in [1, ...], is answered otherwise in company."""
    found = []
    for name, answer in together.items():
        if not answer.ndim or len(answer) < 2:
            continue
        one, other = answer[at : at + 1].astype(float), alone[name].astype(float)
        if one.shape == other.shape and one.size:
            width = float(answer.max()) - float(answer.min())
            if abs(one - other).max() > ALONE * width:
                found.append(name)
    return tuple(found)


def keep(path: Path, answers: Feeds) -> str:
    """Write a file; its path."""
    npz.write(path, answers)
    return str(path)


def read(path: str) -> Feeds:
    """The answers of a file."""
    return npz.read(path)


def batches(answers: Answers) -> Iterator[Feeds]:
    """In the order of the data."""
    for file in sorted(Path(answers.folder).glob("[0-9]*.npz")):
        yield read(str(file))
