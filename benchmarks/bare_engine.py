"""The engine without stages or telemetry around it, and a clock over its steps: what the workloads of ours share."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.neighbours import floor_folder

__all__ = ["BareEngine", "Steps", "arguments_of", "opened", "run_ours", "yardstick"]


def yardstick() -> Any:
    """The floor's module of texts, tokenizer and models."""
    folder = str(floor_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import common  # type: ignore[import-not-found]

    return common


@dataclass(slots=True, kw_only=True)
class BareEngine:
    """A backend on the CPU and a client of LoRA training over the floor's model of a size."""

    backend: Any
    client: Any

    def sampler(self, size: str) -> Any:
        """Base weights of another size, such as a teacher's."""
        return asyncio.run(self.backend.create_sampling_client(yardstick().model_dir(size)))

    def close(self) -> None:
        """Free it."""
        asyncio.run(self.backend.close())


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[BareEngine]:
    """LoRA of rank 32 on all linear layers but the output layer, as the floor has it."""
    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import LoraConfig

    backend = LocalBackend(
        device="cpu", num_threads=options.threads, dtype=options.dtype, local_files_only=True
    )
    with tempfile.TemporaryDirectory() as folder:
        spec = TrainingSpec(
            base_model=yardstick().model_dir(options.size),
            lora=LoraConfig(rank=32, alpha=64, train_unembed=False),
            seed=0,
            checkpoint_dir=Path(folder),
        )
        engine = BareEngine(backend=backend, client=asyncio.run(backend.create_training_client(spec)))
        try:
            yield engine
        finally:
            engine.close()


@dataclass(slots=True)
class Steps:
    """Processor and wall seconds of each step, and what it tells."""

    warm: int
    rows: list[dict[str, float]] = field(default_factory=list)

    def measure(self, step: Callable[[], dict[str, float]]) -> None:
        """Time one step."""
        wall, cpu = time.perf_counter(), time.process_time()
        told = step()
        took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        self.rows.append({**took, **told})

    def median(self, key: str) -> float:
        """Over the steps after the first ones."""
        return statistics.median(row[key] for row in self.rows[self.warm :])

    def mean(self, key: str) -> float:
        """Over all steps."""
        return statistics.fmean(row[key] for row in self.rows)


def arguments_of(description: str, arguments: Sequence[str], **more: Any) -> argparse.Namespace:
    """The options of one run of ours; ``more`` are further ones with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("who", choices=("ours",))
    parser.add_argument("--size", default="5m")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args(arguments)


def run_ours(
    options: argparse.Namespace, work: Callable[[BareEngine, argparse.Namespace], dict[str, Any]]
) -> None:
    """Print the figures of one run as the last line."""
    with opened(options) as engine:
        figures = work(engine, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("JSON " + json.dumps({**figures, "peak_rss_mb": peak}))
