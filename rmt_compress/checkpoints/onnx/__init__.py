"""ONNX models: read, edited and run as they are."""
