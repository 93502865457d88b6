"""Spoken digits in a recording, or in what a microphone hears.

    python examples/keyword_spotting.py build/examples/keyword_spotting.tflite build/examples/keywords.wav
    python examples/keyword_spotting.py build/examples/keyword_spotting.tflite microphone

Windows overlap; what two of them share is computed once. A word counts when it is heard in windows that follow each
other, and then not again for a while.
"""

from __future__ import annotations

import sys

from devices import chunks

import edgekit
from edgekit.runtimes.interpretation.wakeword import Spotter
from edgekit.runtimes.preparation.audio import Listener

EVERY = 0.16


def main(artifact: str, source: str) -> None:
    """A line a word."""
    with edgekit.load(artifact) as model:
        rate = model.preprocess.audio.rate
        listener = Listener(model.preprocess, model.inputs[0], every=EVERY)
        spotter, windows = Spotter(model.interpret), 0
        for chunk, given in chunks(source, rate):
            if given != rate:
                raise SystemExit(f"the sound has {given} samples a second, the model hears {rate}")
            for tensor in listener.push(chunk):
                word = spotter(model.predict({model.inputs[0].name: tensor}), EVERY * windows)
                windows += 1
                if word.heard:
                    print(f"{EVERY * (windows - 1):6.2f} s: {word.label} ({100 * word.score:.0f} %)", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
