"""What a step costs outside the backend: engine, stages, metrics, events, data, with a backend that does nothing.

    python -m benchmarks.orchestration [--steps 3000] [--profile]

``sl_basic`` runs whole, on the bundled chat data with the bundled tokenizer and a real run folder; only the
training backend answers at once. The figure is processor time of the whole process (all threads) between two steps.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crucible_ir import RunState
from crucible_kitchen.api import Crucible
from crucible_testing.backend import BigramBackend, BigramTraining
from crucible_testing.bigram import BigramTable
from crucible_testing.journal import Journal
from crucible_torch.tokenizer import load_tokenizer
from crucible_train.ports import Handle, Tokenizer, TrainingSpec
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    LossConfig,
    OptimStepOutput,
    TensorData,
)

__all__ = ["NullBackend", "NullTraining", "main"]

_WARM, _EVERY = 200, 50
_ZEROS = np.zeros(1 << 16, dtype=np.float32)


class NullTraining(BigramTraining):
    """A client whose every answer is there when it is asked for; it saves a small table."""

    def __init__(self, spec: TrainingSpec) -> None:
        table = BigramTable(np.zeros((2, 2)))
        super().__init__(table, spec, Journal(fail={}, when_submitted=False), None, itertools.count())
        self._known: dict[int, Mapping[str, TensorData]] = {}

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Zeros of the right shapes, made once per length."""
        outputs = tuple(self._zeros(datum.model_input.length) for datum in data)
        return Handle.completed(ForwardBackwardOutput(loss_fn_outputs=outputs, metrics={"loss:sum": 0.0}))

    forward = forward_backward

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """Nothing moves."""
        return Handle.completed(OptimStepOutput(metrics={"unclipped_grad_l2:mean": 0.0}))

    def _zeros(self, length: int) -> Mapping[str, TensorData]:
        if length not in self._known:
            self._known[length] = {"logprobs": TensorData(_ZEROS[:length])}
        return self._known[length]


class NullBackend(BigramBackend):
    """The bundled model's tokenizer, and training that does nothing."""

    def check(self, spec: TrainingSpec) -> None:
        """Everything goes."""

    def model_digest(self, base_model: str) -> str:
        """No weights, no bytes."""
        return "sha256:" + "0" * 64

    async def load_tokenizer(self, base_model: str) -> Tokenizer:  # type: ignore[override]
        """The real one."""
        return load_tokenizer(base_model, local_files_only=True)

    async def create_training_client(self, spec: TrainingSpec) -> BigramTraining:
        """A client that does nothing."""
        return NullTraining(spec)


def plant(folder: Path) -> None:
    """Let the backend be found under the name ``null``."""
    info = folder / "null_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: null-backend\nVersion: 1.0\n")
    target = "benchmarks.orchestration:NullBackend"
    (info / "entry_points.txt").write_text(f"[crucible.training_backend]\nnull = {target}\n")
    sys.path.insert(0, str(folder))


def run(steps: int, batch_size: int, seen: Callable[[int], None]) -> None:
    """One whole run; ``seen`` is told each step that was logged."""
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder) / "planted")
        manifest = Path(folder) / "null.toml"
        manifest.write_text(
            'extends = "offline"\nprofile = "null"\n[ports.training_backend]\nadapter = "null"\n'
        )

        def listen(what: str, data: Mapping[str, Any]) -> None:
            if what == "metrics" and data["step"] < steps:
                seen(int(data["step"]))

        crucible = Crucible(Path(folder) / "home", listeners=(listen,))
        config = {
            "model": "tiny",
            "data": {"path": "tiny"},
            "batch_size": batch_size,
            "max_steps": steps,
            "epochs": 1 + steps * batch_size // 2000,
            "eval_every": 0,
            "save_every": 0,
            "sample_prompts": 0,
            "lr_schedule": "cosine",
        }
        record = crucible.run("sl_basic", config=config, manifest=str(manifest))
        if record.state is not RunState.COMPLETED:
            raise SystemExit(f"the run ended as {record.state}: {record.error}")


def main(arguments: Sequence[str]) -> int:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    at: list[float] = []
    profile = cProfile.Profile()

    def seen(step: int) -> None:
        if step >= _WARM and step % _EVERY == 0:
            at.append(time.process_time())
        if options.profile and step == _WARM:
            profile.enable()
        if options.profile and step == options.steps - 2:
            profile.disable()

    run(options.steps, options.batch_size, seen)
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    costs_ms = np.diff(at) * 1e3 / _EVERY
    figures = {
        "steps": options.steps,
        "batch_size": options.batch_size,
        "cpu_ms_per_step": round(float(np.median(costs_ms)), 4),
        "lowest": round(float(costs_ms.min()), 4),
        "highest": round(float(costs_ms.max()), 4),
    }
    sys.stdout.write(f"JSON {json.dumps(figures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
