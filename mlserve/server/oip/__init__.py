"""The Open Inference Protocol on both ports, and its tensors."""
