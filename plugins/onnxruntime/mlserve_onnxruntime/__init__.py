"""The ONNX Runtime backend of mlserve."""
