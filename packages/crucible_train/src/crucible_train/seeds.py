"""Random generators derived from one experiment's seed; nothing in the project is seeded globally.

The generator of (seed, purpose, step) is ``PCG64(SeedSequence([seed, *words, step]))``, where ``words`` are
the eight 32-bit words, low byte first, of the SHA-256 of the purpose in UTF-8. Every purpose and step has
its own stream, so that adding one draws nothing from another.
"""

from __future__ import annotations

import hashlib

import numpy as np

from crucible_ir.errors import ConfigError

__all__ = ["derived_seed", "generator"]


def _sequence(experiment_seed: int, purpose: str, step: int) -> np.random.SeedSequence:
    if experiment_seed < 0 or step < 0:
        raise ConfigError(
            what=f"seed {experiment_seed} and step {step}", where="seed", remedy="give numbers of 0 or more"
        )
    if not purpose:
        raise ConfigError(what="no purpose", where="seed.purpose", remedy="name what the numbers are for")
    words = np.frombuffer(hashlib.sha256(purpose.encode("utf-8")).digest(), dtype="<u4")
    return np.random.SeedSequence([experiment_seed, *words.tolist(), step])


def generator(experiment_seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """A PCG64 generator for one purpose (``"dropout"``, ``"rollout"``) at one step.

    Raises:
        ConfigError: a negative seed or step, or an empty purpose.
    """
    return np.random.Generator(np.random.PCG64(_sequence(experiment_seed, purpose, step)))


def derived_seed(experiment_seed: int, purpose: str, step: int = 0) -> int:
    """A seed below 2**63 for what takes no generator (an engine, a sampler).

    Raises:
        ConfigError: as ``generator``.
    """
    return int(_sequence(experiment_seed, purpose, step).generate_state(1, np.uint64)[0] >> np.uint64(1))
