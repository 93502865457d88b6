"""EdgeKit: quantize, convert, prove and run models on small boards.

>>> import edgekit
>>> edgekit.__version__
'0.1.0'

Names are resolved on first use: importing this package imports neither numpy nor a framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.artifact import Artifact as Artifact
    from edgekit.errors import EdgeKitError as EdgeKitError
    from edgekit.monitor.capture import Capture as Capture
    from edgekit.pipeline import convert as convert
    from edgekit.retraining import retrain as retrain
    from edgekit.runtimes.flow.cascade import Cascade as Cascade
    from edgekit.runtimes.flow.metrics import Metrics as Metrics
    from edgekit.runtimes.flow.pool import Pool as Pool
    from edgekit.runtimes.flow.stream import Stream as Stream
    from edgekit.runtimes.flow.watch import watch as watch
    from edgekit.runtimes.model import Model as Model
    from edgekit.runtimes.model import load as load

_HOME = {
    "Artifact": "edgekit.artifact",
    "Capture": "edgekit.monitor.capture",
    "Cascade": "edgekit.runtimes.flow.cascade",
    "EdgeKitError": "edgekit.errors",
    "Metrics": "edgekit.runtimes.flow.metrics",
    "Model": "edgekit.runtimes.model",
    "Pool": "edgekit.runtimes.flow.pool",
    "Stream": "edgekit.runtimes.flow.stream",
    "convert": "edgekit.pipeline",
    "load": "edgekit.runtimes.model",
    "retrain": "edgekit.retraining",
    "watch": "edgekit.runtimes.flow.watch",
}

__all__ = [
    "Artifact",
    "Capture",
    "Cascade",
    "EdgeKitError",
    "Metrics",
    "Model",
    "Pool",
    "Stream",
    "__version__",
    "convert",
    "load",
    "retrain",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        from edgekit import parts

        if error.name != _HOME[name] or parts.has_desk():
            raise
        raise parts.at_desk_only(f"edgekit.{name}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
