"""From the bytes of a body to JSON: decompressed, measured, then parsed, each within its bound."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np

from edgekit.errors import FeedError, LimitError
from edgekit.serve.settings import Bounds

_FREE = 1 << 16
"""Decompressed bytes that may come of any number of compressed ones: a small tensor of zeros shrinks a hundredfold."""
_PIECE = 1 << 16
_SIMPLE = 1 << 20
_COMMA, _QUOTE = b',"'
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1

Data = bytes | bytearray | memoryview


def inflated(body: Data, coding: int, bounds: Bounds) -> Data:
    """The body without its coding.

    Args:
        body: As sent.
        coding: 0 none, 1 gzip, 2 deflate (zlib's wrapper, or bare as some clients send it).
        bounds: See `Bounds.body` and `Bounds.ratio`.

    Raises:
        LimitError: `body-ratio`, `body-limit`. FeedError: `body-json`: it is not compressed so.
    """
    if coding == 0:
        return body
    bare = coding == 2 and not _wrapped(body)
    most = min(max(len(body) * bounds.ratio, _FREE), bounds.body)
    reader = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | (16 if coding == 1 else 0))
    made = bytearray()
    rest: Data = body
    try:
        while not reader.eof and len(made) <= most:
            piece = reader.decompress(rest, _PIECE)
            made += piece
            rest = reader.unconsumed_tail
            if not piece and not rest:
                break
    except zlib.error as error:
        raise FeedError("body-json", "the body is not compressed as its Content-Encoding says") from error
    if len(made) > most:
        if most == bounds.body:
            raise LimitError("body-limit", f"the body has more than {bounds.body} bytes")
        raise LimitError("body-ratio", f"the body grows more than {bounds.ratio} times")
    if not reader.eof or reader.unused_data:
        raise FeedError("body-json", "the compressed body is cut, or something follows it")
    return made


def _wrapped(body: Data) -> bool:
    """RFC 1950: method 8, and a header that divides by 31."""
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0


def parsed(text: Data, bounds: Bounds) -> Any:
    """JSON, strictly: no NaN, no infinity, nothing nested or numerous beyond the bounds. Of a key that stands twice the
    last counts.

    Raises:
        FeedError: `body-json`, `body-depth`. LimitError: `body-numbers`.
    """
    import orjson  # three to eight times as fast on lists of numbers, which are most of what comes

    _Measure(bounds).whole(memoryview(text))
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FeedError("body-json", f"the body is no JSON: {error}") from error


class _Measure:
    """Depth and number of values of a JSON text, found without copying or parsing it; strings do not count."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._depth = self._commas = 0

    def whole(self, text: memoryview) -> None:
        if len(text) <= _SIMPLE and self._flat(bytes(text)):
            return
        within, escaped = 0, False  # a string; behind a backslash, the last of the piece before
        for start in range(0, len(text), _PIECE):
            piece = bytes(text[start : start + _PIECE])
            if escaped or b"\\" in piece:  # what has one before it ends no string; outside of strings it is no JSON
                piece = _ESCAPE.sub(b"__", b"_" + piece[1:] if escaped else piece)
                escaped = piece.endswith(b"\\")
            codes = np.frombuffer(piece, np.uint8)
            if b'"' in piece:
                quotes = np.cumsum(codes == _QUOTE, dtype=np.int32) + within
                codes = np.where(quotes & 1, np.uint8(0), codes)
                within = int(quotes[-1]) & 1
            elif within:
                continue
            self._piece(codes)

    def _flat(self, text: bytes) -> bool:
        """Whether it is within the bounds even if nothing in it were closed and no comma stood in a string."""
        bounds = self._bounds
        few = len(text) <= bounds.numbers or text.count(b",") <= bounds.numbers
        return few and text.count(b"[") + text.count(b"{") <= bounds.depth

    def _piece(self, codes: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """A stretch in which what is in strings was blotted out."""
        levels = np.cumsum(_STEP[codes], dtype=np.int32)
        if self._depth + int(levels.max()) > self._bounds.depth:
            raise FeedError("body-depth", f"the JSON is nested more than {self._bounds.depth} deep")
        self._depth += int(levels[-1])
        self._commas += int(np.count_nonzero(codes == _COMMA))
        if self._commas > self._bounds.numbers:
            raise LimitError("body-numbers", f"the JSON has more than {self._bounds.numbers} values: send bytes")
