"""A model as a service under systemd: ready when it has proved that it answers right, alive as long as it does.

    service = Service()
    service.ready(model)                # READY=1 after a self-test; until then systemd waits
    for seen in stream:
        service.beat()                  # WATCHDOG=1, as often as WatchdogSec asks
    service.stopping()

`edgekit unit app` writes the unit. Without systemd (no NOTIFY_SOCKET) nothing is sent. The
protocol is https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html; no library is needed for it.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from edgekit.errors import EngineError, VerificationError

if TYPE_CHECKING:
    from edgekit.runtimes.flow.watch import Watched
    from edgekit.runtimes.model import Model


def notify(state: str) -> bool:
    """Tell systemd; whether there is one.

    Raises:
        EngineError: `notify-failed`: there is one and it does not listen.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
            there.connect(address)
            there.sendall(state.encode())
    except OSError as error:
        raise EngineError("notify-failed", f"systemd does not listen at {address!r}: {error}") from error
    return True


class Service:
    """What a service tells its supervisor."""

    def __init__(self) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Twice as often as asked, as the manual advises.
        self._every = int(microseconds) / 2e6 if microseconds.isdigit() and mine else None
        self._due = 0.0

    def ready(self, *models: Model | Watched) -> None:
        """Replay each model's self-test (of a foreign file: answer zeros), then say READY=1.

        Of a model that follows switches (`edgekit.watch`), the version that is active.

        Raises:
            VerificationError: `selftest-failed`: a model answers wrong here; READY is not said.
        """
        from edgekit.runtimes.model import Model

        for model in models:
            if isinstance(model, Model):
                _prove(model)
            else:
                with model.using() as active:
                    _prove(active)
        notify("READY=1")
        self._due = 0.0

    def beat(self) -> bool:
        """Call it with every answer: says WATCHDOG=1 when it is time; whether it said so."""
        now = time.monotonic()
        if self._every is None or now < self._due:
            return False
        self._due = now + self._every
        return notify("WATCHDOG=1")

    @staticmethod
    def status(text: str) -> bool:
        """One line for `systemctl status`."""
        return notify("STATUS=" + text.replace("\n", " "))

    @staticmethod
    def stopping() -> bool:
        """The end has begun."""
        return notify("STOPPING=1")


def _prove(model: Model) -> None:
    if model.artifact.selftest is None:
        model.warm_up(1)
        return
    from edgekit.runtimes.replay import replay

    seen = replay(model)
    if not seen.passed:
        raise VerificationError("selftest-failed", f"{model.artifact.path or 'the model'}: {'; '.join(seen.failures)}")
