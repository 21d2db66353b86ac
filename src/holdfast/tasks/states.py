"""Generators of random numbers, left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def random_states() -> Iterator[None]:
    """Whatever the block draws or seeds, Python's, numpy's and torch's generators go on as if
    it had not."""
    import numpy
    import torch

    devices = list(range(torch.cuda.device_count()))
    python, arrays = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
