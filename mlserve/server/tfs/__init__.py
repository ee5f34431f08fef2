"""TensorFlow Serving's API on both ports, and its tensors."""
