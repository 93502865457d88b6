"""A worker: a process that opens one model, proves it, and answers what the server hands over until it hangs up.

    python -m edgekit.serve.worker SOCKET      (a descriptor)

Whatever clients sent is parsed here and nowhere else. It knows nothing of HTTP but the status that an answer has.
"""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit import artifact as artifacts
from edgekit.artifact import Artifact
from edgekit.codec import decode, encode
from edgekit.errors import ArtifactError, EdgeKitError, TargetError, VerificationError
from edgekit.runtimes.model import Model
from edgekit.serve import answering
from edgekit.serve.answering import Answer
from edgekit.serve.messages import as_json
from edgekit.serve.wire import ANSWER, DRIFT, FRAME, HELLO, TELL, Opening

if TYPE_CHECKING:
    from edgekit.monitor.alarm import Verdict
    from edgekit.monitor.capture import Capture
    from edgekit.monitor.monitor import Monitor

_ENDING = 10.0
"""Seconds that a worker before may take to end."""

_HELD_SECONDS, _HELD_BYTES = 0.001, 1 << 16
"""An answer waits for others no longer, and not behind a larger one."""


def main(descriptor: int) -> None:
    """Open, say hello, answer."""
    os.dup2(2, 1)  # what an engine prints is nobody's answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as link:
        (size,) = FRAME.unpack(_exactly(link, FRAME.size))[1:]
        opening = decode(Opening, json.loads(_exactly(link, size)))
        try:
            model = opened(opening)
        except EdgeKitError as error:
            _hello(link, {"error": error.to_dict()})
            return
        desk = answering.Desk(model, opening)
        try:
            watch = _Watch(model, opening) if opening.monitor else None
        except EdgeKitError as error:
            _hello(link, {"error": error.to_dict()})
            return
        _hello(link, desk.about())
        _tell(link, watch)  # what it knew before its start
        gc.collect()
        gc.freeze()
        try:
            _work(link, desk, opening, watch)
        finally:
            if watch is not None:
                watch.close()


def _work(link: socket.socket, desk: answering.Desk, opening: Opening, watch: _Watch | None) -> None:
    """Answer until the server hangs up.

    Raises:
        EOFError: It did.
    """
    while True:
        count, size = FRAME.unpack(_exactly(link, FRAME.size))
        asked = answering.unpacked(_exactly(link, size), count)
        # Whoever started it may die while the engine hangs; then nobody else would end it.
        signal.setitimer(signal.ITIMER_REAL, 2 * opening.watchdog * count + 5)
        _answer(link, desk.answers(asked))
        _tell(link, watch)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _tell(link: socket.socket, watch: _Watch | None) -> None:
    """What the monitor noticed, if it is time."""
    if watch is not None and (news := watch.news()):
        link.sendall(TELL.pack(DRIFT, 0, 0, 0, len(news), 0, 0.0, 0.0, 0.0, 0.0) + news)


def _answer(link: socket.socket, answers: Iterator[tuple[int, Answer]]) -> None:
    """Send them as they come, several at once where they come fast: a call of the system costs like a small model."""
    pieces: list[bytes] = []
    since = time.monotonic()
    for number, answer in answers:
        head = TELL.pack(ANSWER, answer.status, number, answer.json, len(answer.body), answer.together,
                         answer.parse, answer.run, answer.write, time.monotonic())  # fmt: skip
        pieces += (head, answer.body)
        if time.monotonic() - since > _HELD_SECONDS or len(answer.body) > _HELD_BYTES:
            link.sendall(b"".join(pieces))
            pieces = []
            since = time.monotonic()
    if pieces:
        link.sendall(b"".join(pieces))


class _Watch:
    """What a monitor noticed, told at most once a second.

    Args:
        model: The worker's.
        opening: Where its monitor goes on across restarts, and where samples are kept.

    Raises:
        ArtifactError: `reference-missing`. UsageError: `output-unwritable`, `key-invalid`. TargetError: `monitor-busy`,
            `capture-unwritable`. EngineMissingError: `seal-missing`.
    """

    def __init__(self, model: Model, opening: Opening) -> None:
        self._keeper = None if opening.captures is None else _Keeper(model, opening.name, opening.captures)
        self._monitor = _patient(model, opening, self._keeper)
        self._told = -math.inf
        if self._keeper is not None:
            self._keeper.begin()

    def news(self) -> bytes:
        """Nothing too soon after the last."""
        now = time.monotonic()
        if now - self._told < 1:
            return b""
        self._told = now
        if self._keeper is not None:
            self._keeper.begin()
        status = self._monitor.status()
        return as_json({name: status[name] for name in ("samples", "passed_over", "alarms", "ended")})

    def close(self) -> None:
        """Keep what it knows."""
        if self._keeper is not None:
            self._keeper.close()
        self._monitor.close()


class _Keeper:
    """Keeps samples that matter, as soon as the worker before, of whichever version, has let the folder go."""

    def __init__(self, model: Model, name: str, folder: str) -> None:
        self._model, self._name, self._folder = model, name, folder
        self._capture: Capture | None = None
        self._monitor: Monitor | None = None

    def watched_by(self, monitor: Monitor) -> None:
        """Whose status goes along."""
        self._monitor = monitor

    def begin(self) -> None:
        """Keep from now on, unless another process still does.

        Raises:
            As `edgekit.Capture`, but for `capture-busy`.
        """
        if self._capture is not None:
            return
        from edgekit.monitor.capture import Capture

        try:
            self._capture = Capture(self._name, self._model, root=self._folder, monitor=self._monitor)
        except TargetError as error:
            if error.code != "capture-busy":
                raise

    def offer(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], verdict: Verdict | None) -> None:
        """A call was answered."""
        if self._capture is not None:
            self._capture.offer(inputs, outputs, verdict)

    def close(self) -> None:
        """Write what is held."""
        if self._capture is not None:
            self._capture.close()


def _patient(model: Model, opening: Opening, taker: _Keeper | None) -> Monitor:
    """A monitor; whoever had the folder before may still be ending."""
    until = time.monotonic() + _ENDING
    while True:
        try:
            return model.monitor(opening.kept, capture=taker, cycle=opening.cycle)
        except TargetError as error:
            if error.code != "monitor-busy" or time.monotonic() > until:
                raise
        time.sleep(0.1)


def opened(opening: Opening) -> Model:
    """The model, proved by its self-test (a foreign file: by answering zeros) and warm.

    Raises:
        VerificationError: `selftest-failed`. ArtifactError: `artifact-damaged`: it is not the file that was meant.
        Others as `edgekit.load`.
    """
    found = artifacts.read(opening.path)
    if opening.sha256 is not None and found.sha256 != opening.sha256:
        raise ArtifactError("artifact-damaged", f"the file of {opening.name} is not the one that was received")
    model = Model.from_artifact(found, threads=opening.threads, engine=opening.engine)
    try:
        _prove(model, found)
        model.warm_up()
    except EdgeKitError:
        model.close()
        raise
    return model


def _prove(model: Model, found: Artifact) -> None:
    if found.selftest is None or model.engine == "null":
        return
    from edgekit.runtimes.replay import replay

    seen = replay(model)
    if not seen.passed:
        raise VerificationError("selftest-failed", f"{found.path}: {'; '.join(seen.failures)}")


def _hello(link: socket.socket, about: dict[str, Any]) -> None:
    body = json.dumps(encode(about)).encode()
    link.sendall(TELL.pack(HELLO, 0, 0, 0, len(body), 0, 0.0, 0.0, 0.0, 0.0) + body)


def _exactly(link: socket.socket, size: int) -> bytearray:
    """So many bytes.

    Raises:
        EOFError: The server hung up.
    """
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = link.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
