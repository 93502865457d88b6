"""ONNX graphs as TFLite graphs, operator by operator, without a framework in between."""
