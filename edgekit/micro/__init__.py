"""Tiny networks with made-up weights, written as TFLite and ONNX files without a framework.

`devices probe` runs them on a board to learn what its kernels cost. `nets` says which there are, `tflite` and `onnx`
write them, `flat` is the little of a flatbuffer that this takes.
"""

from __future__ import annotations
