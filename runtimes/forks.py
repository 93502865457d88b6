"""What a forked child does with the engines of its parent: nothing, at its end neither.

A session's destructor waits for threads, which a fork does not copy: a child that ends by itself would hang in it, or
die by a signal. It gets one more reference to each, so that no destructor runs there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from edgekit.runtimes.model import Model

_open: WeakSet[Model] = WeakSet()


def remember(model: Model) -> None:
    """From now on, until it is closed or nobody has it."""
    _open.add(model)


def _keep() -> None:
    import ctypes  # numpy has imported it

    for model in _open:
        session = model._session  # noqa: SLF001 - what `close` lets go
        if session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep)
