"""Forks: whoever has what a child of the process must not go on with is told in the child, before anything runs there.

A lock that another thread held at that moment is never let go in the child; so each owner makes itself a new one.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Owner(Protocol):
    """Of a lock, of descriptors."""

    def forked(self) -> None:
        """This is another process now."""
        ...


_LIVING: weakref.WeakSet[Owner] = weakref.WeakSet()


def told(owner: Owner) -> None:
    """Tell an owner, as long as it lives, in each process that is forked from this one."""
    _LIVING.add(owner)


def _tell() -> None:
    for owner in list(_LIVING):
        owner.forked()


os.register_at_fork(after_in_child=_tell)
