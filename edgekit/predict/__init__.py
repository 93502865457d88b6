"""How long a model would take on a board that nobody has at hand.

    from edgekit.predict import predict

    found = predict(facts, load_profile("raspberry-pi-4b"), threads=4)
    found.latency["estimate"], found.latency["basis"], found.slowest(5)

`plan` says which kernels an engine runs, `work` counts what each has to do, `prices` what a unit of it costs in a
setting, `settings` makes the setting from a profile, `parameters` reads the fitted factors, `latency` sums up.
Standard library only: it runs on devices too.
"""

from __future__ import annotations

from edgekit.predict.latency import Latency, OpTime, Prediction, predict

__all__ = ["Latency", "OpTime", "Prediction", "predict"]
