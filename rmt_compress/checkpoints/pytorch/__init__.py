"""Files of `torch.save`: state dicts, training checkpoints, whole pickled modules."""
