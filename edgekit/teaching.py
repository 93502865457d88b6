"""Labelled samples in memory, as a function that trains takes them: read from files, divided, joined, written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files, npz
from edgekit.collect import dataset
from edgekit.data import open_data
from edgekit.data_objects import spill
from edgekit.data_ref import DataRef
from edgekit.errors import DataError
from edgekit.selftest import noise
from edgekit.tensors import sampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples and what they are.

    Attributes:
        feeds: Array [n, ...] by input name, as the model is fed.
        labels: [n, ...]: class indices, or values.
        weights: float64 [n]: so many samples of the stream each stands for; 1 where nobody captured it.
    """

    feeds: dict[str, NDArray[Any]]
    labels: NDArray[Any]
    weights: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def x(self) -> NDArray[Any]:
        """The array of a model's only input.

        Raises:
            DataError: `data-names`: it has several; see `feeds`.
        """
        if len(self.feeds) != 1:
            raise DataError("data-names", f"the inputs are {', '.join(self.feeds)}: see feeds")
        return next(iter(self.feeds.values()))

    @property
    def y(self) -> NDArray[Any]:
        """The labels."""
        return self.labels

    def joined(self, other: Labelled) -> Labelled:
        """Both, one behind the other."""
        import numpy as np

        feeds = {name: np.concatenate([array, other.feeds[name]]) for name, array in self.feeds.items()}
        labels = np.concatenate([self.labels, other.labels])
        return Labelled(feeds, labels, np.concatenate([self.weights, other.weights]))

    def part(self, rows: NDArray[Any]) -> Labelled:
        """Some of them."""
        feeds = {name: array[rows] for name, array in self.feeds.items()}
        return Labelled(feeds, self.labels[rows], self.weights[rows])

    def thinned(self, seed: int) -> Labelled:
        """As the stream is: each sample stays with a probability that its weight is proportional to.

        Weights beyond the upper tenth count as that, or one sample that was captured again and again would remove all
        others.
        """
        import numpy as np

        if not len(self):
            return self
        chance = self.weights / np.quantile(self.weights, 0.9)
        return self.part(np.flatnonzero(noise(len(self), seed, 1) / 2.0**64 < chance))

    def arrays(self, *, labels: bool = True) -> dict[str, NDArray[Any]]:
        """By the names that `edgekit.convert` looks for, whatever the new model calls its only input."""
        feeds = {"x": self.x} if len(self.feeds) == 1 else self.feeds
        return {**feeds, **({"y": self.labels} if labels else {})}

    def save(self, path: Path) -> Path:
        """As an `.npz`."""
        npz.write(path, self.arrays())
        return path


def given(data: Any, about: Manifest) -> Labelled:
    """Data as the user names it.

    Args:
        data: A dataset that `edgekit collect` made, a path as `--eval` takes it, arrays (x, y), or samples already.
        about: The model's manifest: its inputs, and how things become them.

    Raises:
        DataError: `labels-missing`, and as `edgekit.data.open_data`. MissingFileError: `file-missing`.
    """
    if isinstance(data, Labelled):
        return data
    if isinstance(data, (str, Path)):
        return _read(
            DataRef(str(_located(Path(data))), preprocess=about.preprocess, classes=about.interpret.labels), about
        )
    with files.scratch() as folder:
        return _read(spill(data, about.inputs, folder), about)


def divided(whole: Labelled, holdout: float, seed: int) -> tuple[Labelled, Labelled]:
    """(the rest, the part that is kept back), by a draw that no numpy version changes."""
    import numpy as np

    order = np.argsort(noise(len(whole), seed), kind="stable")
    kept = round(len(whole) * holdout)
    return whole.part(np.sort(order[kept:])), whole.part(np.sort(order[:kept]))


def _located(path: Path) -> Path:
    """The labelled arrays of a dataset; other paths are data themselves."""
    if not (path / dataset.MANIFEST).is_file() or not (path / dataset.SEGMENTS).is_dir():
        return path
    found = path / "labelled" / "data.npz"
    if not found.exists():
        raise DataError(
            "labels-missing", f"nothing in {path} is labelled",
            next_step=f"Label {path}/label-studio.json, then `edgekit collect -o {path} --labels export.json`.",
        )  # fmt: skip
    return found


def _read(ref: DataRef, about: Manifest) -> Labelled:
    data = open_data(ref, sampled(about.inputs, about.outputs))
    if not data.labelled:
        raise DataError("labels-missing", f"{ref.path} has no labels")
    data.require_classes()
    (batch,) = data.batches(len(data))
    assert batch.labels is not None  # noqa: S101 - it is labelled
    return Labelled(batch.feeds, batch.labels, _weights(Path(ref.path), len(data)))


def _weights(path: Path, count: int) -> NDArray[Any]:
    """Those that stand beside the samples, as in a collected dataset."""
    import numpy as np

    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            found = stored.get("weight")
            if found is not None and found.shape == (count,):
                return np.asarray(found, np.float64)
    return np.ones(count)
