"""The PyTorch backend of mlserve."""
