"""The Python code that a network is made by, as a digest: a module, and all that it leads to by import statements.

Modules are looked for where `edgekit.converters.from_torch.code` imports them from, and read, never run. Of installed
distributions the version stands for the code. Code that is found in another way than by an import statement, and other
files that it reads, are not seen.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import all_suffixes
from importlib.metadata import packages_distributions, version
from pathlib import Path

from edgekit import files

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_IMPORTERS = frozenset({"import_module", "__import__"})


def sha256(module: str) -> str:
    """Hex digest of the code behind "package.module"; it changes with any file that the module imports."""
    contents: dict[str, str] = {}
    versions: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        folders = [Path.cwd(), *map(Path, sys.path)]
        parts = name.split(".")
        for count, part in enumerate(parts, 1):
            inside = ".".join(parts[:count])
            file, folders = _find(part, folders)
            if file is None:
                continue  # modules in a folder without a file of its own, or a name that is no module
            if inside not in contents:
                versions[inside] = _version(inside, file)
                contents[inside] = versions[inside] or files.sha256(file)
                if not versions[inside] and file.suffix == ".py":
                    waiting += _imports(file, inside)
            if versions[inside]:
                break
    return hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()


def _find(part: str, folders: list[Path]) -> tuple[Path | None, list[Path]]:
    """The file of a module in the first folder that has it, and where its own modules lie."""
    spread = []
    for folder in folders:
        if (package := folder / part / "__init__.py").is_file():
            return package, [folder / part]
        for suffix in all_suffixes():
            if (file := folder / f"{part}{suffix}").is_file():
                return file, []
        if (folder / part).is_dir():
            spread.append(folder / part)
    return None, spread


def _version(name: str, file: Path) -> str:
    """What stands for a module of Python itself or of a distribution; "" for one that is only a file here."""
    if Path(ast.__file__).parent in file.parents and not _INSTALLED & set(file.parts):
        return sys.version
    if not _INSTALLED & set(file.parts):
        return ""
    owners = _owners().get(name.partition(".")[0], [])
    return " ".join(f"{owner} {version(owner)}" for owner in sorted(set(owners)))


@cache
def _owners() -> Mapping[str, list[str]]:
    return packages_distributions()


def _imports(file: Path, name: str) -> Iterator[str]:
    """Names that may be modules, absolute."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing it says so
        return
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if alias.name != "*" else base for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            said = node.args[0]
            if called in _IMPORTERS and isinstance(said, ast.Constant) and isinstance(said.value, str):
                yield said.value.lstrip(".")
