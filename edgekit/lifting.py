"""The search stage of `--precision mixed`: verifications one after the other, within a budget, kept across kills."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import __version__, files
from edgekit.codec import decode, encode
from edgekit.converters import mixed
from edgekit.converters.rules import Layer
from edgekit.converters.stages import Graph, LoadedFacts, QuantizeOptions, Ranges
from edgekit.converters.worker import Workshop
from edgekit.errors import ConversionError, UsageError, WorkerError
from edgekit.options import Options
from edgekit.precision import FormatRules, precisions
from edgekit.rules import LayerPrecision, Rule

if TYPE_CHECKING:
    from edgekit.converters.jobs import Survey
    from edgekit.converters.verification.verdict import Verification


@dataclass(frozen=True)
class Way:
    """How layers are lifted.

    Attributes:
        to: Their precision.
        interface: Of the artifact. What a lifted layer reads of an input in integers is rounded before it computes.
    """

    to: LayerPrecision
    interface: Literal["int8", "float"]

    def __str__(self) -> str:
        return f"{self.to}, {'floats' if self.interface == 'float' else 'integers'} at the ends"


def ways(said: Options, rules: FormatRules) -> tuple[Way, ...]:
    """What to try, in order: the interface that was asked for or is the format's own, then floats at the ends."""
    lifts = (said.lift,) if said.lift else rules.lifts
    ends = (said.interface,) if said.interface else dict.fromkeys((rules.interface, "float"))
    return tuple(Way(to, one) for one in ends if one in rules.interfaces for to in lifts)


class Memory:
    """Results of a search by content, each a small file that appears whole; without a folder nothing is kept.

    Args:
        folder: Made when it is not there.
        facts: All that decides the results.
        asked: Whether the user named it; a folder that nobody asked for and that cannot be written costs its use, not
            the search.

    Raises:
        UsageError: `output-unwritable`: the user's folder cannot be made.
    """

    def __init__(self, folder: Path | None, *facts: Any, asked: bool = True) -> None:
        self._folder, self._asked = folder, asked
        self._facts = [__version__, *facts]
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if asked:
                reason = error.strerror or error
                raise UsageError("output-unwritable", f"--lift-cache {folder} cannot be made: {reason}") from error
            self._folder = None

    def recall(self, what: Any) -> Any:
        """What was kept; None when nothing was, or nothing that can be read."""
        if self._folder is None:
            return None
        try:
            return json.loads(self._path(what).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep(self, what: Any, result: Any) -> None:
        """Keep a result.

        Raises:
            UsageError: `output-unwritable`: the user's folder cannot be written.
        """
        if self._folder is None:
            return
        with contextlib.suppress(*() if self._asked else (UsageError,)):
            files.replace(self._path(what), json.dumps(result).encode())

    def _path(self, what: Any) -> Path:
        assert self._folder is not None  # noqa: S101 - asked for by both callers
        text = json.dumps(encode([*self._facts, what]), sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def lift(
    shop: Workshop,
    graph: Graph,
    unrounded: Graph,
    ranges: Ranges,
    options: QuantizeOptions,
    judge: Callable[[Graph], Verification],
    said: Options,
    survey: Survey,
    facts: LoadedFacts,
) -> tuple[Graph, QuantizeOptions]:
    """The stage: the float graph with a note of what was found, and options with the rules.

    Without a lifted layer it is `graph`, else `unrounded`: weights that were rounded for integers gain nothing in a
    wider layer. When nothing passes or the budget ends first, the rules are the best guess, which the verification
    behind this stage judges.
    """
    precision = precisions.get(said.precision)
    content = [files.sha256(Path(path)) for path in (graph.path, unrounded.path, survey.proof.path)]
    what = (content, graph.tools, facts.tools, ranges, options, replace(survey.proof, path=""), said.max_drop)
    memory = Memory(said.lift_cache or files.cache("mixed"), *what, asked=said.lift_cache is not None)
    found, note = find(
        lambda: shop.probe(unrounded, facts, survey, ranges, options),
        options,
        ways(said, precision.rules(graph.format)),
        lambda tried: judge(shop.quantize(graph if tried == options else unrounded, ranges, precision.name, tried)),
        memory,
        budget=said.lift_budget,
        tell=shop.tell,
    )
    chosen = graph if found == options else unrounded
    return replace(chosen, notes=(*chosen.notes, note)), found


def find(
    probe: Callable[[], mixed.Noise],
    options: QuantizeOptions,
    tried: Sequence[Way],
    judge: Callable[[QuantizeOptions], Verification],
    memory: Memory,
    *,
    budget: int | None,
    tell: Callable[[dict[str, Any]], None],
) -> tuple[QuantizeOptions, str]:
    """Find the layers to lift.

    Args:
        probe: Gives the noise of each layer; asked only when plain int8 does not pass.
        options: Of the user, with rules of his own that come first.
        tried: Ways to lift, in order. Where none has a set that passes and the last is to float, the result is that
            every operator computes in float, those that only move values included.
        judge: Quantizes and verifies.
        memory: Of searches before.
        budget: Verifications at most, for each way; None for the forecast.
        tell: Told the forecast and each step.

    Returns:
        Options with the rules, and one line for the user.
    """
    search = _Search(options, judge, memory, tell)
    if search.passes((), tried[0]):
        return options, "mixed: plain int8 passes, no layer was lifted"
    kept = memory.recall("noise")
    found = probe() if kept is None else decode(mixed.Noise, kept)
    memory.keep("noise", encode(found))
    search.known, order = found.known, mixed.ranked(found)
    most = mixed.forecast(len(order)) if budget is None else budget
    each = "; ".join(dict.fromkeys(str(way) for way in tried))
    tell({"note": f"mixed: {len(order)} layers, at most {most} verifications for each of: {each}"})
    for way in tried:
        chosen, complete = search.run(order, way, most, whole_first=way != tried[0])
        if chosen is not None:
            note = f"mixed: {len(chosen)} of {len(order)} layers lifted to {way.to} after {search.spent} verifications"
            if way.interface != options.interface:
                note += "; floats at the ends, since with integers there no set of layers is enough"
            more = "" if complete else "; the budget ended before it was known whether fewer are enough"
            return search.options(chosen, way), note + more
    last = tried[-1]
    if last.interface != "float":
        tell({"note": "mixed: what is lost may be lost in rounding the inputs, which --io float leaves as they are"})
    nothing = f"mixed: no set of the {len(order)} layers was found that passes when lifted to {_lifts(tried)}"
    if last.to != "float":
        return search.options(order, last), nothing
    whole = replace(options, interface=last.interface, rules=(*options.rules, Rule("float")))
    return whole, f"{nothing}; so every operator computes in float, which --precision fp16 has at half the size"


def _lifts(tried: Sequence[Way]) -> str:
    return " or ".join(dict.fromkeys(way.to for way in tried))


class _Search:
    def __init__(
        self,
        options: QuantizeOptions,
        judge: Callable[[QuantizeOptions], Verification],
        memory: Memory,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._options, self._judge, self._memory, self._tell = options, judge, memory, tell
        self.known: tuple[Layer, ...] = ()
        self.spent = 0

    def run(
        self, order: Sequence[str], way: Way, most: int, *, whole_first: bool
    ) -> tuple[tuple[str, ...] | None, bool]:
        """The set, None if there is none; and whether the search came to its end."""
        steps = mixed.search(order, whole_first=whole_first)
        best: tuple[str, ...] | None = None
        wanted, started = next(steps), self.spent
        while True:
            if self.spent - started >= most:
                return best, False
            passed = self.passes(wanted, way)
            if passed and (best is None or len(wanted) < len(best)):
                best = wanted
            try:
                wanted = steps.send(passed)
            except StopIteration as end:
                return end.value, True

    def passes(self, lifted: Sequence[str], way: Way) -> bool:
        what = [sorted(lifted), encode(way) if lifted else ""]
        known = self._memory.recall(what)
        if known is None:
            self.spent += 1
            self._tell({"stage": f"lift {len(lifted)} layers", "done": self.spent})
            known = self._judged(self.options(lifted, way))
            self._memory.keep(what, known)
        return bool(known)

    def _judged(self, options: QuantizeOptions) -> bool:
        try:
            return not self._judge(options).failures
        except WorkerError:
            raise
        except ConversionError:
            if not options.rules:
                raise
            return False  # this precision does not exist for one of the layers

    def options(self, lifted: Sequence[str], way: Way) -> QuantizeOptions:
        """The user's, and rules for these layers."""
        if not lifted:
            return self._options
        rules = (*self._options.rules, *mixed.rules(self.known, lifted, way.to))
        return replace(self._options, interface=way.interface, rules=rules)
