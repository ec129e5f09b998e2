"""Singular values and vectors of weights: which directions there are, computed on any device."""
