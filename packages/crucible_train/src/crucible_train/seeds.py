"""Random generators that depend on a seed, a purpose and a step, and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["generator"]


def generator(experiment_seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """A PCG64 generator; other purposes and other steps give independent streams.

    The seed sequence's entropy is the experiment's seed, the first 16 bytes of SHA-256 of ``purpose``, and
    the step, so that a stream does not move when another purpose draws more or less.
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([experiment_seed, word, step])))
