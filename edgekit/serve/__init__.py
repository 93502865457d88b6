"""The Open Inference Protocol (v2) over HTTP/1.1 from a board, with a bound on everything.

    edgekit serve models/ --port 8080

One process talks HTTP and decides what runs when (standard library and httptools, no numpy); each model runs in worker
processes of its own, which parse what clients sent, so that neither a crashing engine nor a hostile picture takes the
server down. Why these parts and no others stands in `docs/serve.md`.
"""

from __future__ import annotations
