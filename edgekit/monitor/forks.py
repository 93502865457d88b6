"""Locks and forks: a lock that another thread holds while a process forks is never let go in the child.

Whoever has one says so here, and has a new one in each child. What the lock guards may then be half done; a child that
answers at all is worth more than one sample of its monitor.
"""

from __future__ import annotations

import os
import weakref
from _thread import LockType, allocate_lock
from typing import Protocol


class Locked(Protocol):
    """Something with a lock of its own."""

    _lock: LockType


_LIVING: weakref.WeakSet[Locked] = weakref.WeakSet()


def renewed(owner: Locked) -> None:
    """Give an owner another lock in each process that is forked from this one."""
    _LIVING.add(owner)


def _renew() -> None:
    for owner in _LIVING:
        owner._lock = allocate_lock()  # noqa: SLF001 - it said so


os.register_at_fork(after_in_child=_renew)
