"""The build backend of `edgekit-runtime`: lays out what a board uses as a project of its own, which setuptools builds.

Nothing is listed twice. Modules follow from `edgekit/parts.toml`, packages, version and dependencies from the SDK's
pyproject.toml; name, description and extras stand in the pyproject.toml beside this file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setuptools import build_meta

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SAME = ("requires-python", "license", "license-files", "keywords", "classifiers", "dependencies", "scripts", "urls")
"""What both distributions say alike."""


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """PEP 517."""
    del metadata_directory
    with _project():
        return str(build_meta.build_wheel(wheel_directory, config_settings))


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """PEP 517: a project that needs nothing of this tree."""
    with _project():
        return str(build_meta.build_sdist(sdist_directory, config_settings))


@contextlib.contextmanager
def _project() -> Iterator[None]:
    """The project, as the current folder."""
    with tempfile.TemporaryDirectory(prefix="edgekit-runtime.") as folder:
        lay_out(Path(folder))
        with contextlib.chdir(folder):
            yield


def lay_out(folder: Path) -> None:
    """Write the project: modules, data, license, read-me and a pyproject.toml."""
    sdk = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    own = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["edgekit-runtime"]
    chosen = [package for package in sdk["tool"]["setuptools"]["packages"] if _on_boards(package)]
    for package in chosen:
        _copy(package, sdk["tool"]["setuptools"], folder)
    (folder / "pyproject.toml").write_text(_pyproject(sdk, own, chosen), encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(HERE / "README.md", folder)


def _on_boards(module: str) -> bool:
    sys.path.insert(0, str(ROOT))
    try:
        from edgekit.parts import place_of
    finally:
        sys.path.remove(str(ROOT))
    return place_of(module) != "desk"


def _copy(package: str, setuptools: dict[str, Any], folder: Path) -> None:
    """The modules of a package that boards use, and its data."""
    data = setuptools["package-data"]
    target = folder / package.replace(".", "/")
    target.mkdir(parents=True)
    source = _source(package, setuptools["package-dir"])
    for pattern in ("*.py", *data["*"], *data.get(package, ())):
        for file in source.glob(pattern):
            if _on_boards(f"{package}.{file.stem}"):
                shutil.copy(file, target)


def _source(package: str, places: dict[str, str]) -> Path:
    """Where a package lies in this tree."""
    parts = package.split(".")
    for count in range(len(parts), 0, -1):
        if (place := places.get(".".join(parts[:count]))) is not None:
            return ROOT.joinpath(place, *parts[count:])
    return ROOT.joinpath(*parts)


def _pyproject(sdk: dict[str, Any], own: dict[str, Any], packages: list[str]) -> str:
    project = sdk["project"]
    tables: dict[str, dict[str, Any]] = {
        "build-system": sdk["build-system"],
        "project": {
            "name": own["name"], "description": own["description"], "readme": "README.md",
            "dynamic": project["dynamic"],
            **{key: project[key] for key in SAME if not isinstance(project[key], dict)},
        },
        **{f"project.{key}": project[key] for key in SAME if isinstance(project[key], dict)},
        "project.optional-dependencies": {key: project["optional-dependencies"][key] for key in own["extras"]},
        "tool.setuptools": {"packages": packages, "include-package-data": False},
        "tool.setuptools.package-data": sdk["tool"]["setuptools"]["package-data"],
        "tool.setuptools.dynamic.version": sdk["tool"]["setuptools"]["dynamic"]["version"],
    }  # fmt: skip
    return "".join(f"[{name}]\n{_lines(table)}\n" for name, table in tables.items())


def _lines(table: dict[str, Any]) -> str:
    """Strings, booleans and lists of strings, which TOML writes as JSON does."""
    return "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in table.items())
