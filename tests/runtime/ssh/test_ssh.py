"""Boards over SSH: every command runs there, and what happens when something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit import cli
from edgekit.targets import agent, open_target


def test_verify_there(board, artifacts):
    with open_target(board.target) as place:
        there = place.put(artifacts["int8.tflite"])
        seen = place.perform(agent.verify, agent.Opening(there))
    assert seen.passed
    assert seen.engine == "litert"
