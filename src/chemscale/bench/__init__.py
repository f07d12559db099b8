"""The bench: everything that trains (PyTorch)."""
