"""One lazy registry for every kind of extension: loaders, lowerings, engines, precisions, devices.

Built-ins are found by file name in their folder, without importing them or scanning metadata; strangers use
entry points of the group `edgekit.KIND`, which are looked at only when a name is not built in. A built-in cannot
be overridden, and two strangers of one name are an error that names both distributions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgekit.errors import InternalError, UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind.

    Args:
        kind: What a member is called in messages: "engine".
        package: Where the built-ins lie: "edgekit.runtimes".
        prefix: Start of a built-in's file name: "engine_".
        suffix: End of it: ".py" for modules, ".toml" for data.
        group: Entry point group for strangers: "edgekit.engines".
        read: Turns what was found into a member: it gets a module (".py"), the file's text (".toml") or whatever
            a stranger's entry point names; together with the member's name.
        spelling: Maps a file's stem to the public name.
    """

    def __init__(
        self,
        *,
        kind: str,
        package: str,
        prefix: str,
        suffix: str,
        group: str,
        read: Callable[[str, Any], T],
        spelling: Callable[[str], str] = str,
    ) -> None:
        self.kind = kind
        self.package = package
        self.prefix = prefix
        self.suffix = suffix
        self.group = group
        self.read = read
        self.spelling = spelling

    def names(self) -> list[str]:
        """All known names, built-ins first, each part sorted."""
        return [*self._builtin, *sorted(set(self._strangers) - set(self._builtin))]

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._strangers

    def get(self, name: str) -> T:
        """The member called `name`, loaded on first use.

        Raises:
            UsageError: `unknown-name`: lists the known ones; `duplicate-extension`: two distributions claim it.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name in self._builtin:
            found = self._builtin_source(self._builtin[name])
        elif name in self._strangers:
            found = self._stranger(name)
        else:
            raise UsageError(
                "unknown-name",
                f"no {self.kind} is called {name!r}; known: {', '.join(self.names())}",
                kind=self.kind,
                name=name,
                known=self.names(),
            )
        return self._loaded.setdefault(name, self.read(name, found))

    def all(self) -> list[T]:
        """Every member, loaded."""
        return [self.get(name) for name in self.names()]

    @cached_property
    def _loaded(self) -> dict[str, T]:
        return {}

    @cached_property
    def _builtin(self) -> Mapping[str, str]:
        """Public name -> file stem."""
        found = {}
        for item in self._folder.iterdir():
            if item.name.startswith(self.prefix) and item.name.endswith(self.suffix) and item.name[0] != "_":
                stem = item.name.removeprefix(self.prefix).removesuffix(self.suffix)
                found[self.spelling(stem)] = item.name
        return dict(sorted(found.items()))

    def _builtin_source(self, file: str) -> Any:
        if self.suffix == ".py":
            return importlib.import_module(f"{self.package}.{file.removesuffix('.py')}")
        return (self._folder / file).read_text(encoding="utf-8")

    @property
    def _folder(self) -> Path:
        # Not importlib.resources, which costs a device a tenth of its start.
        return Path(importlib.import_module(self.package).__path__[0])

    @cached_property
    def _strangers(self) -> Mapping[str, list[Any]]:
        from importlib.metadata import entry_points

        found: dict[str, list[Any]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def _stranger(self, name: str) -> Any:
        points = self._strangers[name]
        if len(points) > 1:
            owners = sorted(str(p.dist.name) if p.dist else p.value for p in points)
            raise UsageError(
                "duplicate-extension",
                f"the {self.kind} {name!r} is claimed by {' and by '.join(owners)}",
                owners=owners,
            )
        try:
            return points[0].load()
        except ImportError as error:
            raise InternalError(
                "extension-broken", f"the {self.kind} {name!r} ({points[0].value}) cannot be imported: {error}"
            ) from error
