"""What a model meets on the device beside what it was proved on: numpy and the standard library alone.

A reference (what the data of a conversion looked like, as distributions) travels in the artifact; the monitor holds
the stream against it and says in words what moved. The capture keeps the samples that matter.
"""
