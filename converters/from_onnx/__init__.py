"""What an ONNX file says, and how any ONNX graph becomes the one modern form that later stages take."""
