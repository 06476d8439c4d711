"""What leaves the compiler besides ONNX: engines."""
