"""TorchScript archives: weights read and exchanged as data."""
