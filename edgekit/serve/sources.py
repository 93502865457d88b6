"""Where served models come from: files, folders of files, and the store of deployed models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingFileError, UsageError
from edgekit.store import faults, shelf
from edgekit.store.shelf import Shelf

_SUFFIXES = (".tflite", ".onnx")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_VERSION = re.compile(r"[0-9]{1,18}\Z")


@dataclass(frozen=True)
class Seen:
    """Which version is to answer.

    Attributes:
        path: Of its file.
        version: As clients see it.
        sha256: What the file must be; None for whatever lies there.
        trial: It is on trial: the one before stays at hand.
    """

    path: str
    version: str
    sha256: str | None = None
    trial: bool = False


class FileSource:
    """One file, which stays.

    Attributes:
        name: Of the model.
        label: The same, or of an older version, beside a newer one, its path.
    """

    def __init__(self, name: str, path: Path, version: str = "1", *, older: bool = False) -> None:
        self.name = name
        self.label = f"{name}/versions/{version}" if older else name
        self._seen = Seen(str(path), version)

    def changed(self) -> bool:
        return False

    def look(self) -> Seen:
        return self._seen

    def tell(self, sha256: str, fault: str) -> None:
        """Nobody listens."""


class StoreSource:
    """A deployed model: the version that its record says is active, whichever that becomes."""

    def __init__(self, name: str, root: str | Path | None) -> None:
        self.name = self.label = name
        self._shelf = Shelf(name, root)
        self._mark = (0, 0, 0)

    def changed(self) -> bool:
        """Whether the record is another than at the last look; asks for nothing but the file's state."""
        return self._shelf.mark() != self._mark

    def look(self) -> Seen:
        """What the record says now.

        Raises:
            MissingFileError: `model-unknown`. ArtifactError: `store-damaged`, `store-newer`.
        """
        self._mark = self._shelf.mark()
        record = self._shelf.settled()
        version = record.find(record.active) if record.active else None
        if version is None:
            raise MissingFileError("model-unknown", f"no version of {self.name} is active")
        return Seen(
            str(self._shelf.path(version.sha256)), str(version.number), version.sha256, record.trial is not None
        )

    def tell(self, sha256: str, fault: str) -> None:
        """Whoever supervises a trial hears of a fault."""
        faults.tell(self._shelf, sha256, fault)


Source = FileSource | StoreSource


def find(
    given: tuple[str, ...], root: str | Path | None = None, *, versions: Callable[[str], int] = lambda _: 1
) -> list[Source]:
    """The models to serve.

    Args:
        given: Paths of artifacts, folders of them (`NAME.tflite`, or `NAME/VERSION/FILE`, of which the highest numbers
            count), such a `NAME` itself, and names of deployed models; empty for all that are deployed.
        root: Folder of the deployed models; None for this device's.
        versions: How many of a model's folder are served.

    Raises:
        UsageError: `serve-name`: two models have one name, or one that cannot stand in an address; `serve-nothing`.
        MissingFileError: `file-missing`.
    """
    sources: list[Source] = []
    for text in given or tuple(shelf.names(root)):
        path = Path(text)
        if path.is_dir():
            sources += _folder(path, versions)
        elif path.is_file():
            sources.append(FileSource(path.stem, path))
        elif text in shelf.names(root):
            sources.append(StoreSource(text, root))
        else:
            raise MissingFileError("file-missing", f"there is no file, folder or deployed model {text}")
    if not sources:
        raise UsageError("serve-nothing", "there is no model to serve" + (f" in {', '.join(given)}" if given else ""))
    labels = [source.label for source in sources]
    for label, name in ((source.label, source.name) for source in sources):
        if labels.count(label) > 1:
            raise UsageError("serve-name", f"two models are called {name}: rename a file, or serve one of them")
        if not _NAME.match(name):
            raise UsageError(
                "serve-name", f"{name!r} cannot stand in an address: letters, digits, '.', '_' and '-' can"
            )
    return sources


def _folder(folder: Path, most: Callable[[str], int]) -> list[Source]:
    """Its models; or the one whose versions lie in it."""
    found: list[Source] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _SUFFIXES:
            found.append(FileSource(path.stem, path))
        elif path.is_dir():
            found += _versions(path, most)
    return found or _versions(folder.resolve(), most)


def _versions(folder: Path, most: Callable[[str], int]) -> list[Source]:
    """The newest of a model's folder, by their numbers."""
    found: list[Source] = []
    versions = [path for path in folder.iterdir() if path.is_dir() and _VERSION.match(path.name)]
    newest = sorted(versions, key=lambda path: -int(path.name))[: most(folder.name)]
    for version in newest:
        files = [path for path in sorted(version.iterdir()) if path.suffix in _SUFFIXES]
        if len(files) != 1:
            raise UsageError("serve-name", f"{version} holds {len(files)} models; one is a version")
        found.append(FileSource(folder.name, files[0], version.name, older=version is not newest[0]))
    return found
