"""Sampling, tokens per second: 32 prompts at once, 8 requests of ragged lengths, 16 samples of one long prompt.

    python -m benchmarks run sampling --case "batch 30m float32"
    python -m benchmarks.sampling ours --size 30m --work batch      one run of ours

``batch`` is held against the floor's loop over a static cache (``sampling.py --engine floor``): the same prompts of 32
to 64 tokens, 64 new tokens each, chosen at temperature 1 with their log-probabilities. ``ragged`` is held against the
same requests one after another, ``group`` against 16 prompts that share nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import neighbours
from benchmarks.bare_engine import yardstick
from benchmarks.contest import Case, Guard, Workload

__all__ = ["WORKLOAD", "cases", "main"]

SIZES = ("5m", "30m", "120m")
DTYPES = ("float32", "bfloat16")
RAGGED = (24, 40, 64, 96, 120, 160, 200, 256)
GROUP, LONG = 16, 512
GROUP_NEW = 8
Prompts = list[list[int]]


def cases(labels: Sequence[str]) -> list[Case]:
    """The named cases such as ``batch 30m float32`` or ``group 30m``; all without names."""
    known = {f"batch {size} {dtype}": _batch(size, dtype) for size in SIZES for dtype in DTYPES}
    known["ragged 30m"] = _against("ragged 30m", "ragged", "one by one", "one")
    known["group 30m"] = _against("group 30m", "group", "not shared", "apart")
    return [known[label] for label in labels or known]


def _batch(size: str, dtype: str) -> Case:
    shape = ("--size", size, "--dtype", dtype)
    return Case(
        label=f"batch {size} {dtype}",
        contestants=(
            neighbours.ours("benchmarks.sampling", *shape, "--work", "batch"),
            neighbours.floor("sampling.py", *shape, "--engine", "floor"),
        ),
        guard=Guard(
            key="surprise",
            band=0.02,
            reference=neighbours.ours(
                "benchmarks.sampling", "--size", size, "--work", "batch", "--dtype", "float32", name="float32"
            ),
        ),
    )


def _against(label: str, work: str, name: str, way: str) -> Case:
    shape = ("--size", "30m", "--work", work)
    return Case(
        label=label,
        contestants=(
            neighbours.ours("benchmarks.sampling", *shape),
            neighbours.ours("benchmarks.sampling", *shape, "--way", way, name=name),
        ),
    )


WORKLOAD = Workload(
    name="sampling",
    title="Sampling",
    measure="tokens_per_cpu_s",
    unit="tokens per second of processor time",
    cases=cases,
    goals={"floor": 1.0, "one by one": 2.5, "not shared": 8.0},
    also=("tokens_per_s", "peak_rss_mb"),
)


def _prompts(options: argparse.Namespace) -> Prompts:
    """The floor's prompts for ``batch``; those of the other kinds of work from the same generator."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if options.work == "batch":
        lengths = torch.randint(32, 65, (32,), generator=generator).tolist()
    else:
        lengths = list(RAGGED) if options.work == "ragged" else [LONG]
    found = [torch.randint(300, 8000, (n,), generator=generator).tolist() for n in lengths]
    if options.way == "apart":
        return [[300 + number, *found[0][1:]] for number in range(GROUP)]
    return found


def _asking(sampler: Any, options: argparse.Namespace) -> Callable[[], list[Any]]:
    """A call that asks for everything and waits for it."""
    from crucible_train.types import ModelInput, SamplingParams

    prompts = [ModelInput.from_ints(prompt) for prompt in _prompts(options)]
    samples = GROUP if options.work == "group" and options.way == "together" else 1
    new = GROUP_NEW if options.work == "group" else options.new

    def asked() -> list[Any]:
        waiting, answers = [], []
        for seed, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=new, seed=seed, stop=[])
            handle = sampler.sample(prompt, params, num_samples=samples)
            if options.way == "one":
                answers.append(handle.result())
            else:
                waiting.append(handle)
        return [*answers, *(handle.result() for handle in waiting)]

    return asked


def sample(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run of ours: the best of some repetitions, as the floor counts them.

    Nothing is kept of prompts from one repetition to the next.
    """
    from crucible_torch import LocalBackend

    backend = LocalBackend(
        device="cpu",
        num_threads=options.threads,
        dtype=options.dtype,
        prefix_cache_mb=0,
        local_files_only=True,
    )
    sampler = asyncio.run(backend.create_sampling_client(yardstick().model_dir(options.size)))
    asked = _asking(sampler, options)
    asked()
    walls, cpus = [], []
    for _ in range(options.repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        answers = asked()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    sequences = [sequence for answer in answers for sequence in answer.sequences]
    logprobs = [value for sequence in sequences for value in sequence.require_logprobs()]
    asyncio.run(backend.close())
    return {
        "tokens_per_cpu_s": len(logprobs) / min(cpus),
        "tokens_per_s": len(logprobs) / statistics.median(walls),
        "surprise": -statistics.fmean(logprobs),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(arguments: Sequence[str]) -> None:
    """Print the figures of one run as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=("ours",))
    parser.add_argument("--size", choices=SIZES, default="30m")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--work", choices=("batch", "ragged", "group"), default="batch")
    parser.add_argument("--way", choices=("together", "one", "apart"), default="together")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    sys.stdout.write("JSON " + json.dumps(sample(parser.parse_args(arguments))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
