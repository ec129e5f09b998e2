"""Folders of `torch.distributed.checkpoint`: tensors in parts, each written by the process that held it."""
