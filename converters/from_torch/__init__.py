"""PyTorch networks: their files, code and weights, and the ONNX graph that each becomes."""
