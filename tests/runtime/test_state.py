"""Recurrent models keep variables inside the engine: an answer must not depend on the sample before."""

from __future__ import annotations

import numpy as np

import edgekit


def test_the_order_of_samples_does_not_matter(shared):
    x = np.random.default_rng(0).random((6, 28, 28)).astype(np.float32)
    with edgekit.load(shared / "models" / "mnist_lstm_tflite" / "lstm_fp32.tflite") as model:
        name = model.inputs[0].name
        whole = next(iter(model.run({name: x}).values()))
        turned = next(iter(model.run({name: x[::-1]}).values()))[::-1]
        single = np.concatenate([next(iter(model.run({name: row[None]}).values())) for row in x])
    np.testing.assert_array_equal(whole, turned)
    np.testing.assert_array_equal(whole, single)
