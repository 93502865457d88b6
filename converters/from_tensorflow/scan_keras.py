"""What a Keras file would do when it is loaded, found out before Keras sees it.

A Keras file is a program: its configuration names classes to build and functions to call, a Lambda layer carries
Python bytecode, its weights are an HDF5 file that may point at other files. Keras' own safe mode stops some of that,
and each Keras version stops another part; so the file is judged here, by one rule for both Keras generations, and
what is not known to be harmless is refused. Only then is it handed over, with Keras' safe mode on as well.

Judged are: the archive (names that leave it, bombs), the HDF5 links and datasets, and every object of the
configuration, nested to any depth. The lists are data, at the top.
"""

from __future__ import annotations

import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import SourceError, UnsafeSourceError, some

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

ROOTS = frozenset({"keras", "tf_keras"})
AREAS = frozenset({
    "activations", "constraints", "dtype_policies", "engine", "feature_column", "initializers", "layers", "losses",
    "metrics", "mixed_precision", "models", "ops", "optimizers", "premade_models", "quantizers", "random",
    "regularizers",
})  # fmt: skip
"""Parts of Keras whose classes only describe a computation. Not among them: `utils`, `saving`, `config`, `export`,
`datasets`, `callbacks`, ... whose functions read files, download or switch the safe mode off (CVE-2025-1550,
CVE-2025-9906)."""
FUNCTION_AREAS = frozenset({"activations", "constraints", "initializers", "losses", "metrics", "ops", "regularizers"})
ROOT_CLASSES = frozenset({
    "DTypePolicy", "FloatDTypePolicy", "Function", "Functional", "Initializer", "Layer", "Loss", "Metric", "Model",
    "Optimizer", "QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy", "Quantizer", "Regularizer", "Sequential",
    "Variable",
})  # fmt: skip

CODE_CLASSES = {
    "__lambda__": "a serialized Python function",
    "Lambda": "a Lambda layer, which carries Python code",
    "TFSMLayer": "a layer that loads a SavedModel from any path",
    "TorchModuleWrapper": "a layer that unpickles a PyTorch module",
    "JaxLayer": "a layer that carries Python code",
    "FlaxLayer": "a layer that carries Python code",
    "ClassMethod": "a layer that calls any method of TensorFlow",
    "InstanceMethod": "a layer that calls any method of its input",
    "InstanceProperty": "a layer that reads any property of its input",
}
FILE_FIELDS = frozenset({"vocabulary", "idf_weights", "filepath", "file_path", "vocabulary_file"})
"""Fields that Keras opens as a file when they are text (CVE-2025-12058)."""

TF_FUNCTIONS = re.compile(
    r"(compat\.v1\.)?("
    r"(math|nn|linalg|bitwise|signal|sets|__operators__|keras\.activations|keras\.backend)\.\w+"
    r"|image\.(resize|resize_with_pad|resize_with_crop_or_pad|crop_and_resize|central_crop|flip_left_right|flip_up_down"
    r"|rgb_to_grayscale|grayscale_to_rgb|per_image_standardization|pad_to_bounding_box|extract_patches)"
    r"|(abs|acos|add|add_n|argmax|argmin|argsort|asin|atan|atan2|batch_to_space|boolean_mask|broadcast_to|cast|ceil"
    r"|clip_by_norm|clip_by_value|complex|concat|cos|cosh|cumsum|divide|eig|einsum|equal|exp|expand_dims|eye|fill|floor"
    r"|gather|gather_nd|greater|greater_equal|identity|less|less_equal|linspace|logical_and|logical_not|logical_or"
    r"|matmul|maximum|meshgrid|minimum|multiply|negative|norm|not_equal|one_hot|ones|ones_like|pad|pow|range|rank"
    r"|realdiv|reduce_\w+|repeat|reshape|reverse|roll|round|scatter_nd|searchsorted|sequence_mask|shape|sigmoid|sign"
    r"|sin|sinh|size|slice|sort|space_to_batch|split|sqrt|square|squeeze|stack|stop_gradient|strided_slice|subtract"
    r"|tan|tanh|tensordot|tensor_scatter_nd_update|tile|top_k|transpose|truediv|unstack|where|zeros|zeros_like))"
)
"""What a TFOpLambda layer (Keras 2: an operation between layers) may call."""

HARMLESS_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
"""HDF5's own filters and h5py's LZF; any other makes HDF5 look for a plug-in library to load."""

_SPECIALS = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_OPERATION_LAYERS = frozenset({"TFOpLambda", "SlicingOpLambda"})

_MEMBERS_LIMIT = 10_000
_BOMB_FLOOR, _BOMB_RATIO = 64 << 20, 100
"""A member above this size may be at most so many times what it takes in the archive; Keras stores uncompressed."""
_SHAPE_BOMB_FLOOR, _SHAPE_BOMB_RATIO = 1 << 30, 1000
"""The same for a dataset's declared size; zeros in chunks compress about 1000:1."""


@dataclass(frozen=True)
class Finding:
    """One thing in a configuration that is not known to be harmless.

    Attributes:
        kind: "code": loading would run the file's code or reach for files; "custom": a class that is not Keras'.
        what: For messages.
    """

    kind: Literal["code", "custom"]
    what: str


@dataclass(frozen=True)
class KerasFile:
    """A file that passed.

    Attributes:
        container: "zip" (`.keras`) or "hdf5".
        version: Of the Keras that wrote it; "" when the file does not say, as early Keras 2 did not.
        findings: What `trusted` let pass.
    """

    container: Literal["zip", "hdf5"]
    version: str
    findings: tuple[Finding, ...] = ()

    @property
    def generation(self) -> int:
        """2 or 3: which Keras wrote the file, and therefore which one reads it."""
        major = self.version.partition(".")[0]
        return int(major) if major.isdigit() and int(major) >= 3 else 2


def scan(path: Path, *, trusted: bool) -> KerasFile:
    """Judge a Keras file without loading it.

    Args:
        path: A `.keras` archive or an HDF5 file; the content decides.
        trusted: Let code inside the configuration pass (and report it). Archives and links are judged regardless.

    Raises:
        UnsafeSourceError: `source-unsafe-code`, `source-unsafe-archive`.
        SourceError: `source-unreadable`; `source-weights-only`: there is no architecture in it;
            `source-custom-class`: it needs classes that are not in the file.
    """
    with open(path, "rb") as file:
        magic = file.read(8)
    container: Literal["zip", "hdf5"] = "zip" if magic[:4] == ZIP_MAGIC else "hdf5"
    text, version = _read_archive(path) if container == "zip" else _read_hdf5(path)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError("source-unreadable", f"{path.name}: its configuration is no JSON ({error})") from error
    if not isinstance(config, dict):
        raise SourceError("source-unreadable", f"{path.name}: its configuration is no JSON object")
    # Models are loaded with compile=False, which drops this one; those of nested models stay.
    config.pop("compile_config", None)
    findings = tuple(dict.fromkeys(judge(config)))
    refuse(path, findings, trusted=trusted)
    return KerasFile(container, version, findings)


def refuse(path: Path, findings: tuple[Finding, ...], *, trusted: bool) -> None:
    """Raise for findings that may not pass; see `scan`."""
    custom = [f.what for f in findings if f.kind == "custom"]
    code = [f.what for f in findings if f.kind == "code"]
    if code and not trusted:
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} would run code of its own when it is loaded: {some(code, 4, '; ')}",
            findings=code,
        )
    if custom and trusted:
        raise SourceError(
            "source-custom-class",
            f"{path.name} needs code that is not in the file: {some(custom, 4, '; ')}",
            findings=custom,
        )
    if custom:
        raise UnsafeSourceError(
            "source-unsafe-code",
            f"{path.name} needs code that is not part of Keras: {some(custom, 4, '; ')}",
            next_step="Export it with its code traced into the graph, model.export(FOLDER), and convert that folder; "
            "or hand the live model object to edgekit.convert.",
            findings=custom,
        )


def judge(config: Any) -> Iterator[Finding]:
    """Everything in a configuration (JSON values, any depth) that is not known to be harmless."""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("class_name"), str):
                yield from _judge_object(item)
            for field in FILE_FIELDS & item.keys():
                if isinstance(item[field], str):
                    yield Finding("code", f"a layer that reads the file {item[field]!r} ({field})")
            stack += item.values()
        elif isinstance(item, list):
            stack += item


def _judge_object(item: dict[str, Any]) -> Iterator[Finding]:
    name = item["class_name"]
    config = item.get("config")
    label = _label(item)
    bare = name.rpartition(">")[2]
    if bare in CODE_CLASSES:
        yield Finding("code", f"{label}: {CODE_CLASSES[bare]}")
        return
    if bare in _OPERATION_LAYERS:
        function = config.get("function") if isinstance(config, dict) else None
        if not (isinstance(function, str) and TF_FUNCTIONS.fullmatch(function)):
            yield Finding("code", f"{label}: calls tf.{function}")
    registered = item.get("registered_name")
    if ">" in name or (isinstance(registered, str) and ">" in registered):
        yield Finding("custom", f"{label}: a class registered as {registered or name!r}")
    elif "module" in item and name not in _SPECIALS and not _known(item["module"], name, config):
        module = item["module"]
        # A module that is named may be imported by some Keras versions, and so run; one that is not cannot.
        kind: Literal["code", "custom"] = "code" if isinstance(module, str) and _imports(module) else "custom"
        yield Finding(kind, f"{label}: from {module or 'a class of the author'}")


def _imports(module: str) -> bool:
    """Whether the module's name alone could reach code that is installed everywhere: the standard library, Keras'."""
    import sys

    root = module.partition(".")[0]
    return root in ROOTS or root in sys.stdlib_module_names or root in {"builtins", "tensorflow", "numpy", "os"}


def _known(module: Any, name: str, config: Any) -> bool:
    if not isinstance(module, str):
        return False
    if module == "builtins":  # functions that Keras looks up by name among its own
        return name == "function" and isinstance(config, str) and config.isidentifier()
    root, *rest = module.split(".")
    if root not in ROOTS or not all(part.isidentifier() for part in rest):
        return False
    if rest[:1] == ["src"]:
        rest = rest[1:]
    if not rest:
        return name in ROOT_CLASSES
    return rest[0] in (FUNCTION_AREAS if name == "function" else AREAS)


def _label(item: dict[str, Any]) -> str:
    config = item.get("config")
    name = config.get("name") if isinstance(config, dict) else config if isinstance(config, str) else None
    return f"{item['class_name']} {name!r}" if isinstance(name, str) and name else str(item["class_name"])


# -- Containers ------------------------------------------------------------------------------------------------


def _read_archive(path: Path) -> tuple[bytes, str]:
    """Configuration and Keras version of a `.keras` archive, after judging all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _judge_members(path, archive.infolist())
            names = archive.namelist()
            if CONFIG not in names:
                raise SourceError("source-unreadable", f"{path.name} is a zip archive without {CONFIG}: no Keras model")
            if WEIGHTS not in names:
                raise SourceError("source-unreadable", f"{path.name} holds no {WEIGHTS}")
            config = archive.read(CONFIG)
            about = json.loads(archive.read(METADATA)) if METADATA in names else {}
            weights = io.BytesIO(archive.read(WEIGHTS))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("source-unreadable", f"{path.name} is a damaged archive: {error}") from error
    import h5py

    try:
        with h5py.File(weights, "r") as file:
            _judge_hdf5(path, file)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("source-unreadable", f"{path.name}: {WEIGHTS} cannot be read: {error}") from error
    return config, str(about.get("keras_version") or "") if isinstance(about, dict) else ""


def _judge_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that would write outside its folder, fill the disk, or read differently twice."""

    def bad(why: str) -> UnsafeSourceError:
        return UnsafeSourceError("source-unsafe-archive", f"{path.name}: {why}")

    if len(members) > _MEMBERS_LIMIT:
        raise bad(f"{len(members)} members; Keras writes a handful")
    if len({member.filename for member in members}) != len(members):
        raise bad("two members have one name")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise bad("its members overlap")
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in member.orig_filename:
            raise bad(f"the member {name!r} would be written outside the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise bad(f"the member {name!r} is a symbolic link")
        if member.file_size > _BOMB_FLOOR and member.file_size > _BOMB_RATIO * member.compress_size:
            raise bad(f"the member {name!r} is a bomb: {member.compress_size} bytes unpack into {member.file_size}")


def _read_hdf5(path: Path) -> tuple[bytes, str]:
    """Configuration and Keras version of an HDF5 file, after judging all of it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _judge_hdf5(path, file)
            config, version = _attribute(file, "model_config"), _attribute(file, "keras_version")
            holds_weights = "layer_names" in file.attrs or "model_weights" in file or "layers" in file
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("source-unreadable", f"{path.name} cannot be read as HDF5: {error}") from error
    if config is None:
        if holds_weights:
            raise SourceError("source-weights-only", f"{path.name} holds weights but no architecture")
        raise SourceError("source-unreadable", f"{path.name} is an HDF5 file without a Keras model")
    return config, (version or b"").decode("utf-8", "replace")


def _attribute(file: Any, name: str) -> bytes | None:
    value = file.attrs.get(name)
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


def _judge_hdf5(path: Path, file: Any) -> None:
    """Refuse an HDF5 file whose links or datasets reach outside it or unpack out of proportion."""
    import h5py

    def bad(name: str, why: str) -> UnsafeSourceError:
        return UnsafeSourceError("source-unsafe-archive", f"{path.name}: {name} {why}")

    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                target = getattr(link, "filename", None) or getattr(link, "path", "")
                raise bad(where, f"is a {type(link).__name__} to {target!r}; Keras writes none")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                problem = _dataset_problem(item)
                if problem:
                    raise bad(where, problem)


def _dataset_problem(dataset: Any) -> str | None:
    if dataset.external:
        return f"keeps its values in another file, {dataset.external[0][0]!r}"
    if dataset.is_virtual:
        return "is a virtual dataset, which reads other files"
    creation = dataset.id.get_create_plist()
    filters = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
    if filters - HARMLESS_FILTERS:
        return f"needs the HDF5 filter plug-in {min(filters - HARMLESS_FILTERS)}"
    declared, stored = dataset.nbytes, dataset.id.get_storage_size()
    if declared > _SHAPE_BOMB_FLOOR and declared > _SHAPE_BOMB_RATIO * stored:
        return f"declares {declared} bytes and stores {stored}: a decompression bomb"
    return None
