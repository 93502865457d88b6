"""Which repairs of weights to take: backward elimination, since they serve each other.

All are judged together; then each is left out in turn, and the set without it goes on if that is better, until leaving
out no further one helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Set = tuple[str, ...]


def eliminate(names: Sequence[str], judge: Callable[[Set], float | None]) -> dict[Set, float]:
    """Judge sets of repairs.

    Args:
        names: In the order in which they are applied.
        judge: The score of a set, more is better; None when there is no time left, which ends the search.

    Returns:
        The scores by set, in the order of judging; holds the empty set and all of them at least, unless time ended.
    """
    scores: dict[Set, float] = {}

    def judged(chosen: Set) -> bool:
        if chosen not in scores:
            found = judge(chosen)
            if found is None:
                return False
            scores[chosen] = found
        return True

    if not (judged(()) and judged(tuple(names))):
        return scores
    present = tuple(names)
    while len(present) > 1:
        less = [tuple(other for other in present if other != name) for name in present]
        if not all(judged(one) for one in less):
            return scores
        best = max(less, key=lambda one: scores[one])
        if scores[best] <= scores[present]:
            return scores
        present = best
    return scores


def gain(scores: Mapping[Set, float], name: str, chosen: Set) -> float | None:
    """What a repair adds: the score with it above that without it, of the sets nearest to the chosen one.

    None when no two judged sets differ by it alone.
    """
    without = [
        (len(set(one) ^ set(chosen)), scores[one] - scores[less])
        for one in scores
        if name in one and (less := tuple(other for other in one if other != name)) in scores
    ]
    return min(without)[1] if without else None
