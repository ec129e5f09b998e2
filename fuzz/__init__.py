"""Hostile and damaged files by the thousand for every reader: `python -m fuzz READER --seconds N --seed S`."""
