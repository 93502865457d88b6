"""What a search may try: formats, precisions, variants of the numbers, engines and threads.

Everything is taken from the registries: a precision, an observer or an engine that somebody adds is tried as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import UsageError
from edgekit.precision import Precision, precisions
from edgekit.tune.trial import Recipe, Setting


@dataclass(frozen=True)
class Space:
    """All trials.

    Attributes:
        recipes: The first of a family is its plain one.
        settings: By format, fewest threads first.
    """

    recipes: tuple[Recipe, ...]
    settings: dict[str, tuple[Setting, ...]]

    @property
    def evaluations(self) -> int:
        """Conversions and measurements of trying everything."""
        return sum(1 + len(self.settings[recipe.format]) for recipe in self.recipes)

    def families(self) -> dict[tuple[str, str, int], list[Recipe]]:
        """Recipes by family, in order."""
        found: dict[tuple[str, str, int], list[Recipe]] = {}
        for recipe in self.recipes:
            found.setdefault(recipe.family, []).append(recipe)
        return found


def build(
    formats: Sequence[str],
    *,
    calibrated: bool,
    threads: Sequence[int],
    names: Iterable[str] | None = None,
    observers: Iterable[str] | None = None,
    engines: Iterable[str] | None = None,
) -> Space:
    """The space of a source.

    Args:
        formats: That there is a way to.
        calibrated: Whether there is calibration data.
        threads: Numbers of threads to run with.
        names: Precisions; None for all that the formats have.
        observers: None for all.
        engines: None for all that run the formats.

    Raises:
        UsageError: `unknown-name`, `observer-unknown`, `tune-nothing`.
    """
    recipes: list[Recipe] = []
    for format in formats:
        for name in precisions.names() if names is None else names:
            precision = precisions.get(name)
            if format not in precision.formats or (precision.calibrated and not calibrated):
                continue
            if precision.rules(format).lifts:
                # It searches by itself, from the best ranges and with all repairs.
                recipes.append(Recipe(format, name, after=_plain(precision)))
                continue
            recipes.append(Recipe(format, name))
            if precision.calibrated:
                recipes += [
                    Recipe(format, name, {"observer": other}) for other in _others(precision.observer, observers)
                ]
                recipes += [Recipe(format, name, {"repairs": other}) for other in _repairs(precision)]
    settings = {format: _settings(format, threads, engines) for format in formats}
    recipes = [recipe for recipe in recipes if settings[recipe.format]]
    if not recipes:
        raise UsageError(
            "tune-nothing", "there is nothing to try: no precision and engine for the formats of this source"
        )
    return Space(tuple(recipes), settings)


def _plain(searched: Precision) -> str | None:
    """The precision that a searched one falls back to: the same numbers, for all layers."""
    like = (searched.kind, searched.weights, searched.activations)
    for name in precisions.names():
        other = precisions.get(name)
        if (other.kind, other.weights, other.activations) == like and not any(r.lifts for r in other.formats.values()):
            return name
    return None


def _others(plain: str, wanted: Iterable[str] | None) -> list[str]:
    from edgekit.converters.calibration import observers

    names = observers.names() if wanted is None else list(wanted)
    for name in names:
        observers.factory(name)
    return [name for name in names if name != plain]


def _repairs(precision: Precision) -> list[Any]:
    """Without the precision's own repairs, and with each that it leaves out."""
    from edgekit.converters import repairs

    own = precision.repairs
    more = [(*own, name) for name in repairs.names() if name not in own]
    return [*([repairs.NONE] if own else []), *more]


def _settings(format: str, threads: Sequence[int], wanted: Iterable[str] | None) -> tuple[Setting, ...]:
    from edgekit.runtimes import engines

    names = [name for name in engines.names() if name != _FAKE] if wanted is None else list(wanted)
    able = [name for name in names if format in engines.get(name).formats]
    return tuple(Setting(name, count) for name in able for count in sorted(set(threads)))


_FAKE = "null"
"""The engine that computes nothing, for tests."""
