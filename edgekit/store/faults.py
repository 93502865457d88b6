"""What apps tell of a version on trial: a fault a line.

`python -m edgekit.store.faults NAME`, as ExecStopPost= of a systemd unit, tells how an app ended that cannot tell it
itself any more: systemd.exec(5) describes SERVICE_RESULT, EXIT_CODE and EXIT_STATUS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from edgekit.store import lines
from edgekit.store.shelf import FAULTS, Shelf

_LIMIT = 1 << 16


def tell(shelf: Shelf, sha256: str, fault: str) -> None:
    """An app met a fault; nobody listens unless that version is on trial."""
    lines.append(shelf.folder / FAULTS, {"sha256": sha256, "fault": fault[:300]}, _LIMIT)


def told(shelf: Shelf, sha256: str) -> str:
    """The first fault that was told of a version; "" when none was."""
    for message in lines.about(shelf.folder / FAULTS, sha256):
        return f"an app met a fault: {message.get('fault')}"
    return ""


def ended(name: str, environment: Mapping[str, str]) -> str:
    """Tell how systemd says that an app of a model ended; what was told, "" when it ended well or nothing is on trial.

    Raises:
        UsageError: `model-name`. ArtifactError: `store-damaged`, `store-newer`. TargetError: `store-unwritable`.
    """
    result = environment.get("SERVICE_RESULT", "success")
    shelf = Shelf(name)
    trial = shelf.record().trial
    if result == "success" or trial is None:
        return ""
    how = " ".join(environment.get(part, "") for part in ("EXIT_CODE", "EXIT_STATUS")).strip()
    fault = f"systemd says {result}" + (f" ({how})" if how else "")
    tell(shelf, trial.sha256, fault)
    return fault


if __name__ == "__main__":
    sys.stderr.write(ended(sys.argv[1], os.environ))
