"""What else somebody may like: the items whose vectors point the same way.

    python examples/recommender.py build/examples/recommender.tflite build/examples/recommender_catalog.npz \
        build/examples/recommender_liked.npz

The catalog's vectors were made at the desk; the board embeds what was liked, and one product finds the neighbors.
"""

from __future__ import annotations

import sys

import numpy as np

import edgekit

SHOWN = 5


def main(artifact: str, catalog: str, liked: str) -> None:
    """Five items for each thing that was liked, and how many of them are of its kind."""
    items, given = np.load(catalog), np.load(liked)
    vectors, names = items["vectors"], items["names"]
    right = 0
    with edgekit.load(artifact) as model:
        for thing, kind in zip(given["x"], given["y"], strict=True):
            nearest = np.argsort(-(vectors @ model.predict(thing).vector))[:SHOWN]
            right += sum(str(name).endswith(f"a {kind}") for name in names[nearest])
            print(f"who liked a {kind} may like {'; '.join(map(str, names[nearest]))}")
    print(f"{100 * right / (SHOWN * len(given['x'])):.1f} % are of the kind that was liked")


if __name__ == "__main__":
    main(*sys.argv[1:])
