"""The other side of `guarded`: opens the model and answers until the pipe ends.

python -m edgekit.runtimes.flow.guarded_child TAKE GIVE MEMORY      (descriptors)
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from typing import Any

import numpy as np

from edgekit import artifact as artifacts
from edgekit.codec import encode
from edgekit.errors import EdgeKitError
from edgekit.runtimes import open_session
from edgekit.runtimes.base import Session
from edgekit.runtimes.flow.guarded import grown, laid_out, receive, send


def main(take: int, give: int, memory: int) -> None:
    """Open, say hello, answer."""
    os.dup2(2, 1)  # what an engine prints is not the app's output
    about = receive(take, None) or {}
    data = os.pread(memory, about["bytes"], 0)
    try:
        opened = artifacts.from_bytes(data, verify=False)
        session = open_session(opened, about["threads"], about["engine"])
    except EdgeKitError as error:
        send(give, {"error": error.to_dict()})
        return
    hello = {"inputs": encode(session.inputs), "outputs": encode(session.outputs), "batches": session.batches}
    send(give, hello)
    shared = mmap.mmap(memory, 0)
    while True:
        message = receive(take, None) or {}
        # Whoever started it may die while the engine hangs; then nobody else would end it.
        signal.setitimer(signal.ITIMER_REAL, 2 * about["seconds"] + 5)
        shared, answer = _answered(session, shared, memory, message)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(give, answer)


def _answered(
    session: Session, shared: mmap.mmap, memory: int, message: dict[str, Any]
) -> tuple[mmap.mmap, dict[str, Any]]:
    try:
        shared = grown(shared, memory, message["size"])
        feeds = {name: np.ndarray(shape, dtype, shared, offset) for name, dtype, shape, offset in message["feeds"]}
        # A copy where the engine may keep what it was given beyond the call.
        answers = {name: np.asarray(array, order="C") for name, array in session.run(feeds).items()}
        places, size = laid_out(answers, message["size"])
        shared = grown(shared, memory, size)
    except EdgeKitError as error:
        return shared, {"error": error.to_dict()}
    for (_, dtype, shape, offset), array in zip(places, answers.values(), strict=True):
        np.ndarray(shape, dtype, shared, offset)[...] = array
    return shared, {"answers": places, "size": size}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(*map(int, sys.argv[1:]))
    except (EOFError, BrokenPipeError):  # nobody asks any more
        sys.exit(0)
