"""Rows of measurements that are not like those that were normal.

    python examples/anomaly_detector.py build/examples/anomaly_detector.tflite build/examples/anomaly_strange.csv

The model rebuilds a row from four numbers; what it never saw it rebuilds badly. Metrics are printed at the end, as a
scraper would read them.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import edgekit


def main(artifact: str, table: str) -> None:
    """One line a row, and how many were strange."""
    metrics = edgekit.Metrics("anomaly_detector")
    strange = total = 0
    with edgekit.load(artifact, metrics=metrics) as model, Path(table).open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            answer = model.predict(row)
            total += 1
            strange += answer.anomalous
            print(f"row {number}: {'strange' if answer.anomalous else 'normal'} ({answer.score:.2f})")
    print(f"{strange} of {total} are strange")
    print(metrics.text(), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
