"""Random numbers that come again.

Every test begins with torch's generator in one state, and has the fixture `rng`, so it needs no seed of its own.
What is made more than once in a test and has to be the same each time is `repeatable`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from hypothesis import strategies as st

SEED = 20240229


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """torch's generator in the same state every time, and afterwards in the state it had."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


repeatable = seeded()
"""Decorates a function whose random numbers are to be the same at every call."""

GENERATORS = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""For properties that must hold whatever the numbers are."""
