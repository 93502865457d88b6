"""Versions of named models on a device: what was received, which one answers, and what happened.

Standard library only, and below the runtimes, because `edgekit.load("people-counter")` asks here which file to open.
What judges a version (its self-test, its speed) lies above, in `edgekit.deploy`.

    ROOT/NAME/
        record.json         the active version, the trial, all versions and the journal: one file, switched by a rename
        versions/SHA256     the artifacts, as they were received; never changed
        incoming/SHA256     what has arrived of one that is on its way
        lock                held by whoever changes anything here
        faults, shadow      what apps tell of a version on trial
"""

from __future__ import annotations

from edgekit.store.places import is_name, root
from edgekit.store.record import Event, Record, Shadow, Trial, Version
from edgekit.store.shelf import Shelf, names

__all__ = ["Event", "Record", "Shadow", "Shelf", "Trial", "Version", "is_name", "names", "root"]
