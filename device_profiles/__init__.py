"""Device profiles: what a board can hold and run, one TOML file a board.

    profile = load_profile("raspberry-pi-4b")      # a built-in, by its file's name
    profile = load_profile("./my-board.toml")      # your own, which may inherit from a built-in

`edgekit.device_profiles.schema` says what stands in a profile, `.reading` how files inherit and state their sources.
A file whose name starts with `_` is a part that boards inherit from, or data of `edgekit.gate`, and no board.
Other packages add boards by an entry point of the group `edgekit.devices` that names TOML text, or a function that
returns it; its name is the board's.
"""

from __future__ import annotations

import difflib
import os.path
from importlib import resources
from pathlib import Path

from edgekit.device_profiles.reading import Definition, parse, resolve
from edgekit.device_profiles.schema import Profile
from edgekit.device_profiles.software import Engine
from edgekit.errors import MissingFileError, UsageError
from edgekit.registry import Registry

__all__ = ["Engine", "Profile", "all_profiles", "devices", "load_profile"]

devices: Registry[Definition] = Registry(
    kind="device",
    package="edgekit.device_profiles",
    prefix="",
    suffix=".toml",
    group="edgekit.devices",
    read=parse,
)
"""The known boards, as written; `load_profile` reads them."""


def load_profile(name_or_path: str | Path) -> Profile:
    """A board's profile.

    Args:
        name_or_path: A known name, or the path of a TOML file: whatever ends in `.toml` or contains a separator.

    Raises:
        UsageError: `unknown-name`; `profile-invalid`: the message names file and field; `profile-parent`: it inherits
            from a board that does not exist; `profile-cycle`.
        MissingFileError: `file-missing`.

    Example:
        >>> load_profile("raspberry-pi-5").cpu.cores
        4
    """
    return resolve(_definition(str(name_or_path)), _parent)


def all_profiles() -> list[Profile]:
    """Every known board, sorted by name, those of other packages last."""
    return [resolve(definition, _parent) for definition in devices.all()]


def _definition(name: str) -> Definition:
    if _is_path(name):
        return _read(Path(name))
    if name not in devices:
        near = difflib.get_close_matches(name, devices.names(), n=3, cutoff=0.6)
        raise UsageError(
            "unknown-name",
            f"no device is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            next_step="`edgekit devices list` shows the known ones; your own board's TOML works by its path",
            kind="device",
            name=name,
            known=devices.names(),
        )
    return devices.get(name)


def _parent(name: str, child: Definition) -> Definition:
    """Where a child's `inherits` leads: a path (seen from the child's own file), a part of ours, or a board."""
    if _is_path(name):
        return _read(Path(child.name).parent / name)
    if name.startswith("_") and (part := resources.files(__name__).joinpath(f"{name}.toml")).is_file():
        return parse(name, part.read_text(encoding="utf-8"))
    try:
        return _definition(name)
    except UsageError as error:
        if error.code != "unknown-name":
            raise
        raise UsageError("profile-parent", f"{child.name} inherits from {name!r}: {error.message}") from error


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name or "\\" in name


def _read(path: Path) -> Definition:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError("file-missing", f"there is no device profile {path}") from error
    except (OSError, ValueError) as error:
        raise UsageError("profile-invalid", f"the device profile {path} cannot be read: {error}") from error
    return parse(os.path.normpath(path), text)
