"""From many boards to one folder that training tools read: what was captured, fetched, told apart, labelled.

    DATASET/
        manifest.json           boards, samples with their chances and labels, and how pictures and sounds were written
        segments/               what came from the boards, as it was there; everything else is made from it
        labels.json             sample -> label
        status.jsonl            alarms and how things stood on the boards over time, for the drift report
        label-studio.json/.xml  tasks and their form for Label Studio
        labelled/, unlabelled/  data.npz, and by kind images/CLASS/*.png, sounds/CLASS/*.wav or table.csv and .parquet

On the desk; the board's part is `edgekit.monitor.export`.
"""

from __future__ import annotations

from edgekit.collect.fetch import BoardOutcome, Collected, collect
from edgekit.collect.labels import read_labels

__all__ = ["BoardOutcome", "Collected", "collect", "read_labels"]
