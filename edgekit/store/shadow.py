"""A version on trial beside the one before, on what apps ask it: what they saw, and what follows from it.

The app answers with the new version; for a share of the calls it asks the old one as well, and writes down whether
both agree (`edgekit.runtimes.flow.shadow` compares).
"""

from __future__ import annotations

from edgekit.store import lines
from edgekit.store.record import Shadow
from edgekit.store.shelf import SHADOW, Shelf

_LIMIT = 1 << 17
"""About 1300 comparisons, of all apps together; more would prove no more."""
_EARLY = 20
"""Comparisons after which too many disagreements end a trial before its time."""


def note(shelf: Shelf, sha256: str, why: str) -> bool:
    """An app compared an answer: "" for agreement, else what differed. Whether more comparisons are wanted."""
    return lines.append(shelf.folder / SHADOW, {"sha256": sha256, "why": why[:200]}, _LIMIT)


def seen(shelf: Shelf, sha256: str, asked: Shadow, *, over: bool) -> tuple[str, str]:
    """What the comparisons say of a version on trial.

    Args:
        shelf: Of the model.
        sha256: The version on trial.
        asked: How it is compared.
        over: The trial is: what was compared until now is all there will be.

    Returns:
        What is wrong, in words, "" for nothing (yet); and what was seen, for the journal.
    """
    whys = [str(message.get("why")) for message in lines.about(shelf.folder / SHADOW, sha256)]
    if not whys:
        return ("no answer of an app could be compared with the version before" if over else ""), ""
    others = [why for why in whys if why]
    agreed = len(whys) - len(others)
    said = f"{agreed} of {len(whys)} answers of apps agreed with the version before"
    if (over or len(whys) >= _EARLY) and agreed < asked.agree * len(whys):
        return f"{said}, {asked.agree:.4g} of them must: {others[0]}", said
    return "", said
