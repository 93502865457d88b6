"""Every error EdgeKit raises, in one tree.

    EdgeKitError
    ├── UsageError (ValueError)              exit 2   the call itself is wrong
    ├── SourceError (ValueError)             exit 3   an input is unreadable, unsupported or unsafe
    │   ├── MissingFileError (FileNotFoundError)
    │   ├── UnsafeSourceError                         would run code or reach outside its folder
    │   ├── DataError                                 calibration or evaluation data is wrong
    │   ├── ArtifactError                             not an artifact, or a damaged one
    │   └── FeedError                                 an array handed to a model is wrong
    ├── ConversionError (RuntimeError)       exit 4   a stage of the conversion failed
    │   └── WorkerError                               its child process died, hung or ran out of memory
    ├── VerificationError (RuntimeError)     exit 5   the answer is not the source's answer
    ├── LimitError (RuntimeError)            exit 6   over a limit of the device
    ├── EngineError (RuntimeError)           exit 7   an engine is missing or failed
    │   └── EngineMissingError (ImportError)
    ├── TargetError (RuntimeError)           exit 8   the target cannot be reached
    └── InternalError (RuntimeError)         exit 70  our own bug

A class says what a caller may do about it and fixes the exit code; the `code` (kebab case, stable) says what
happened, and `edgekit explain CODE` tells its cause, its fix and an example. The texts are data, in
`explanations.toml` beside this file; a test holds that every code raised anywhere has its entry.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple


class Explanation(NamedTuple):
    """What `edgekit explain` says about one code."""

    code: str
    title: str
    cause: str
    fix: str
    example: str


@functools.cache
def explanations() -> Mapping[str, Explanation]:
    """All known codes, in the order of the catalogue."""
    import tomllib
    from importlib import resources

    text = resources.files("edgekit").joinpath("explanations.toml").read_text(encoding="utf-8")
    return {code: Explanation(code=code, **entry) for code, entry in tomllib.loads(text).items()}


class EdgeKitError(Exception):
    """Base of all errors.

    Attributes:
        code: Stable kebab-case identifier; a key of the catalogue.
        message: One sentence: what is wrong, with the names and figures of this case.
        cause: Why, when more is known than the message says; else the catalogue's text.
        next_step: What to do now; else the catalogue's fix.
        details: JSON-able facts for machines.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        code: str,
        message: str,
        *,
        cause: str | None = None,
        next_step: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self._cause = cause
        self._next_step = next_step
        self.details = details

    @property
    def cause(self) -> str:
        return self._cause or _catalogued(self.code, "cause")

    @property
    def next_step(self) -> str:
        return self._next_step or _catalogued(self.code, "fix")

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON: the four contract fields, its class and its details."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "next_step": self.next_step,
            "kind": type(self).__name__,
            "details": self.details,
        }


class UsageError(EdgeKitError, ValueError):
    """The call itself is wrong: an unknown name, options that contradict each other."""

    exit_code = 2


class SourceError(EdgeKitError, ValueError):
    """An input is unreadable, unsupported or unsafe."""

    exit_code = 3


class MissingFileError(SourceError, FileNotFoundError):
    """A path that should exist does not."""


class UnsafeSourceError(SourceError):
    """Reading the input would run its code or reach outside its folder."""


class DataError(SourceError):
    """Calibration or evaluation data does not fit the model."""


class ArtifactError(SourceError):
    """The file is not an artifact of ours, or it is damaged."""


class FeedError(SourceError):
    """An array handed to a model has the wrong name, shape, dtype or content."""


class ConversionError(EdgeKitError, RuntimeError):
    """A stage of the conversion failed, or cannot do what was asked."""

    exit_code = 4


class WorkerError(ConversionError):
    """The child process that did the work died, hung or ran out of memory."""


class VerificationError(EdgeKitError, RuntimeError):
    """The artifact does not give the source's answers."""

    exit_code = 5


class LimitError(EdgeKitError, RuntimeError):
    """Over a limit of the device or over a budget."""

    exit_code = 6


class EngineError(EdgeKitError, RuntimeError):
    """An engine refused the model or failed while running it."""

    exit_code = 7


class EngineMissingError(EngineError, ImportError):
    """No engine for this format is installed here."""


class TargetError(EdgeKitError, RuntimeError):
    """The target cannot be reached."""

    exit_code = 8


class InternalError(EdgeKitError, RuntimeError):
    """A state that our own code should have made impossible."""

    exit_code = 70


def from_dict(data: Mapping[str, Any]) -> EdgeKitError:
    """Rebuild an error that crossed a process boundary; an unknown class becomes InternalError."""
    kinds = {kind.__name__: kind for kind in _descendants(EdgeKitError)}
    kind = kinds.get(str(data.get("kind")), InternalError)
    details = data.get("details")
    error = kind(
        str(data.get("code", "internal")),
        str(data.get("message", "")),
        cause=str(data["cause"]) if data.get("cause") else None,
        next_step=str(data["next_step"]) if data.get("next_step") else None,
    )
    error.details = dict(details) if isinstance(details, Mapping) else {}
    return error


_revive = from_dict


def of_system(error: OSError, temporary: str | None = None) -> EdgeKitError:
    """What the system refused and no caller had better words for: a full disk, no permission, or a bug of ours.

    Args:
        error: As it was raised.
        temporary: The temporary folder, of a process that writes nowhere else.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        if temporary is not None and error.filename is None:
            return UsageError(
                "output-unwritable",
                f"the temporary folder {temporary} cannot be written: {error.strerror}",
                next_step="Free some space there, or name another folder by TMPDIR.",
            )
        path = error.filename or "the output"
        return UsageError("output-unwritable", f"{path} cannot be written: {error.strerror}")
    if isinstance(error, PermissionError) and error.filename is not None:
        return SourceError("file-unreadable", f"{error.filename} cannot be reached: {error.strerror}")
    return InternalError("internal", f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """What another library's exception says, without the pages behind it; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def some(items: Iterable[object], shown: int = 5, between: str = ", ") -> str:
    """A list for a message: the first `shown` items, and how many more there are."""
    listed = [str(item) for item in items]
    more = f"{between if ';' in between else ' '}and {len(listed) - shown} more" if len(listed) > shown else ""
    return between.join(listed[:shown]) + more


def _descendants(kind: type[EdgeKitError]) -> list[type[EdgeKitError]]:
    found = [kind]
    for child in kind.__subclasses__():
        found += _descendants(child)
    return found


def _catalogued(code: str, field: str) -> str:
    entry = explanations().get(code)
    return str(getattr(entry, field)) if entry else ""
