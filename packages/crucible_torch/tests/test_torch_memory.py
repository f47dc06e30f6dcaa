"""Memory does not grow with the number of steps."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, LoraConfig

STEPS = int(os.environ.get("CRUCIBLE_MEMORY_STEPS", "120"))
"""2,000 under `make prove`."""
GROWTH = 0.02
BATCHES = 10


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_memory_stays_over_thousands_of_steps(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    """What is resident in the last tenth of the steps against the second tenth; other batches at every step."""
    rng = np.random.Generator(np.random.PCG64(7))
    lengths = rng.integers(4, 40, (BATCHES, 6))
    batches = [[make_datum(rng.integers(3, 300, n).tolist()) for n in row] for row in lengths]
    spec = TrainingSpec(base_model=str(qwen3), lora=LoraConfig(rank=4), seed=5, checkpoint_dir=tmp_path)
    client: Any = asyncio.run(backend.create_training_client(spec))
    resident = []
    for step in range(STEPS):
        client.forward_backward(batches[step % BATCHES])
        client.optim_step(AdamParams(learning_rate=1e-3)).result()
        resident.append(resident_mib())
    tenth = STEPS // 10
    early, late = statistics.median(resident[tenth : 2 * tenth]), statistics.median(resident[-tenth:])
    if figures := os.environ.get("PROOF_FIGURES"):
        told = {"steps": STEPS, "early_mib": early, "late_mib": late, "growth": late / early - 1}
        Path(figures).write_text(json.dumps(told))
    assert late / early - 1 < GROWTH
