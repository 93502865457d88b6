"""Malignant or benign, from 30 measurements of a cell nucleus.

    python examples/breast_cancer.py build/examples/breast_cancer.tflite build/examples/breast_cancer.csv

A demonstration, not a medical device.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import edgekit


def main(artifact: str, table: str) -> None:
    """One line a row of the table."""
    with edgekit.load(artifact) as model, Path(table).open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            best = model.predict(row).classes[0]
            print(f"row {number}: {best.label} ({100 * best.score:.1f} %)")


if __name__ == "__main__":
    main(*sys.argv[1:])
