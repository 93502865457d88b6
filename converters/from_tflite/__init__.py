"""TFLite files as sources: brought to one form, and their recurrent layers for ONNX."""
