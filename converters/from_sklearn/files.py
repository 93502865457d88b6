"""Files of estimators: which they are, and how they are opened without running what they hold.

A pickle is a program: whoever opens it runs it. It is opened only when the caller named its very digest, and what is
opened are the bytes that have that digest. skops files name the types that they are made of, and are judged by them.
XGBoost's and LightGBM's own files hold numbers.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

from edgekit.converters.from_sklearn.refusal import unsupported
from edgekit.converters.stages import Source
from edgekit.errors import SourceError, UnsafeSourceError

Kind = Literal["pickle", "skops", "xgboost", "lightgbm"]

SUFFIXES = (".joblib", ".pkl", ".pickle", ".dill", ".cloudpickle", ".skops", ".ubj")

_HEAD = 64
_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How torch.save before 1.6 goes on after the pickle's protocol."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x5d\x00\x00",
           b"\x04\x22\x4d\x18")  # fmt: skip
"""Compressors that joblib packs pickles with; only a name says that there is a pickle inside."""
_XGBOOST = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner"
"""Universal binary JSON: an object, and the length of its first key before the key."""
_NAMES_LIMIT = 100_000
_TRUSTED = frozenset({"sklearn", "numpy", "scipy"})
_SHOWN = 5
_OWN = re.compile(r"Can't get attribute '(?P<name>[\w.]+)' on <module '(?:__main__|edgekit\.child)'")
"""What Python says of a class or function of the program that pickled it; this process is called so, too."""


def content(path: Path) -> Kind | None:
    """What a file is, by its first bytes; of an archive, by its names."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return None if head[2 : 2 + len(_TORCH)] == _TORCH else "pickle"
    if head.startswith(_PACKED) and path.suffix.lower() in SUFFIXES:
        return "pickle"
    text = head.lstrip()
    if head.startswith(_XGBOOST) or (text[:1] == b"{" and text[1:].lstrip().startswith(b'"learner"')):
        return "xgboost"
    if head.startswith((b"tree\nversion=", b"tree\r\nversion=")):
        return "lightgbm"
    return "skops" if head[:2] == b"PK" and _is_skops(path) else None


def _is_skops(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()[:_NAMES_LIMIT]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def demands_digest(path: Path) -> bool:
    """Whether `--trust` must name the digest: a pickle runs anything."""
    return content(path) == "pickle"


def read(source: Source) -> tuple[Any, tuple[str, ...]]:
    """Open a file; the object in it, and what to tell the user.

    Raises:
        UnsafeSourceError: `source-unsafe-code`: a pickle whose digest was not named, or a skops file of types that
            are not known to be harmless; nothing of it has run. `trust-mismatch`: it changed meanwhile.
        SourceError: `source-unreadable`, `source-framework-missing`.
    """
    path = Path(source.path)
    kind = content(path)
    if kind == "pickle":
        return _unpickled(path, source)
    if kind == "skops":
        return _skops(path, source)
    if kind == "xgboost":
        return _xgboost(path), ()
    if kind == "lightgbm":
        return _lightgbm(path), ()
    raise SourceError("source-unreadable", f"{path.name} is no file of an estimator")


def _unpickled(path: Path, source: Source) -> tuple[Any, tuple[str, ...]]:
    if not source.trusted:
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} is a Python pickle, which runs whatever it holds when it is opened",
            cause="A pickle is a list of calls. Nothing of it has run. Only its maker can say what they are.",
            next_step=f"If you made the file yourself or trust who did, name its digest: --trust {source.sha256}. "
            "Better: skops.io.dump(model, 'model.skops') writes a file that needs no trust.",
        )
    data = path.read_bytes()
    if source.sha256 and hashlib.sha256(data).hexdigest() != source.sha256:
        raise UnsafeSourceError("trust-mismatch", f"{path.name} changed while it was being converted")
    return _told(path, lambda: _joblib().load(io.BytesIO(data)))


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise _missing("joblib", "sklearn", error) from error
    return joblib


def _told(path: Path, opening: Any) -> tuple[Any, tuple[str, ...]]:
    """Open with warnings as notes; a pickle raises whatever the code in it raises."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = opening()
        except (SourceError, MemoryError):
            raise
        except Exception as error:
            if own := _OWN.match(str(error)):
                raise unsupported(
                    own["name"],
                    "it is code of the program that made it, which no other process has",
                    "Apply it to the data before it is fed, or use one of scikit-learn's own in its place.",
                ) from error
            raise SourceError(
                "source-unreadable",
                f"{path.name} cannot be opened: {type(error).__name__}: {str(error)[:300]}",
                next_step="Open it with the versions of Python and scikit-learn that wrote it, or write it anew.",
            ) from error
    stale = [entry for entry in caught if type(entry.message).__name__ == "InconsistentVersionWarning"]
    notes = {f"it was made by another version: {str(entry.message).splitlines()[0][:200]}" for entry in stale[:1]}
    return model, tuple(notes)


def _skops(path: Path, source: Source) -> tuple[Any, tuple[str, ...]]:
    try:
        import skops.io as skops
    except ImportError as error:
        raise _missing("skops", "sklearn", error) from error
    try:
        named = skops.get_untrusted_types(file=path)
    except Exception as error:  # on a damaged file anything from KeyError to a JSON error
        raise SourceError("source-unreadable", f"skops cannot read {path.name}: {str(error)[:300]}") from error
    strange = [name for name in named if not _harmless(name)]
    if strange and not source.trusted:
        shown = ", ".join(strange[:_SHOWN]) + (", ..." if len(strange) > _SHOWN else "")
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} holds {shown}, which is neither scikit-learn's nor numpy's",
            cause="Opening it would import and run that code. Nothing of it has run.",
            next_step="If you made the file yourself or trust who did, add --trust (or --trust SHA256).",
            types=strange,
        )
    model, notes = _told(path, lambda: skops.load(path, trusted=named))
    said = tuple(f"code of the file ran because it is trusted: {name}" for name in strange)
    return model, (*said, *notes)


def _harmless(name: str) -> bool:
    """A class of scikit-learn's, numpy's or scipy's, or a function of numbers; nothing that reads files."""
    import importlib

    root = name.partition(".")[0]
    module, _, attribute = name.rpartition(".")
    if root not in _TRUSTED or not module:
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    import numpy as np

    # Of the functions only ufuncs: numpy and scikit-learn have others that read files and fetch from the network.
    return isinstance(found, (type, np.ufunc)) and (getattr(found, "__module__", None) or root).startswith(root)


def _xgboost(path: Path) -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise _missing("xgboost", "boosting", error) from error
    booster = xgboost.Booster()
    try:
        # By bytes: it tells its formats by the name of a file, we by content.
        booster.load_model(bytearray(path.read_bytes()))
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise SourceError("source-unreadable", f"XGBoost cannot read {path.name}: {line[:300]}") from error
    return booster


def _lightgbm(path: Path) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise _missing("lightgbm", "boosting", error) from error
    try:
        return lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise SourceError("source-unreadable", f"LightGBM cannot read {path.name}: {str(error)[:300]}") from error


def _missing(package: str, extra: str, error: ImportError) -> SourceError:
    return SourceError(
        "source-framework-missing",
        f"this file needs {package}, which is not installed: {error}",
        next_step=f"pip install 'edgekit-sdk[{extra}]'",
    )
