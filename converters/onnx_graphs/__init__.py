"""ONNX graphs: read, rewritten, quantized, made small."""
