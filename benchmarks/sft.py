"""Supervised fine-tuning, tokens per second: LoRA and full, models of 5, 30 and 120 million parameters.

    python -m benchmarks run sft --case "lora 30m"
    python -m benchmarks.sft ours --size 30m --mode lora --dtype auto     one run of ours

The floor is ``floor_sft.py`` in bfloat16, the peer TRL's ``SFTTrainer`` in the setting that is its fastest here. All
three read the same conversations; a step is eight of them, the loss their mean over assistant tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import neighbours
from benchmarks.bare_engine import yardstick
from benchmarks.contest import Case, Guard, Workload

__all__ = [
    "BAND",
    "WORKLOAD",
    "cases",
    "conversations",
    "main",
    "model_folder",
    "parsed",
    "run",
    "tell",
    "train",
    "yardstick",
]

SIZES = ("5m", "30m", "120m")
MODES = ("lora", "full")
STEPS = {"5m": (12, 3), "30m": (9, 2), "120m": (6, 2)}
"""Steps of a run, and how many of them come before the clock."""
PEERS_BEST = {("lora", "5m"): ("group", "fp32"), ("full", "5m"): ("pack", "medium")}
"""Batching and precision with which TRL is fastest; elsewhere packed with bfloat16 autocast."""
BAND = 0.01

Encoded = tuple[list[int], list[int]]


def cases(labels: Sequence[str]) -> list[Case]:
    """The named cases such as ``lora 5m``; all without names."""
    known = {f"{mode} {size}": (mode, size) for mode in MODES for size in SIZES}
    return [_case(*known[label]) for label in labels or known]


def _case(mode: str, size: str) -> Case:
    steps, warm = STEPS[size]
    shape = ("--size", size, "--mode", mode, "--steps", str(steps), "--warm", str(warm))
    batching, variant = PEERS_BEST.get((mode, size), ("pack", "autocast"))
    return Case(
        label=f"{mode} {size}",
        contestants=(
            neighbours.ours("benchmarks.sft", *shape),
            neighbours.floor("floor_sft.py", *shape, "--variant", "bf16"),
            *neighbours.peer("peer_sft.py", *shape, "--batching", batching, "--variant", variant),
        ),
        guard=Guard(
            key="loss_last",
            band=BAND,
            reference=neighbours.ours("benchmarks.sft", *shape, "--dtype", "float32", name="float32"),
        ),
    )


WORKLOAD = Workload(
    name="sft",
    title="Supervised fine-tuning",
    measure="tokens_per_cpu_s",
    unit="tokens per second of processor time",
    cases=cases,
    goals={"floor": 0.9, "TRL": 1.8},
    also=("tokens_per_s", "peak_rss_mb"),
)


def conversations() -> list[Encoded]:
    """Token ids of 400 conversations with 1 where an assistant speaks, as the floor reads them."""
    common = yardstick()
    return list(common.encode_conversations(common.conversations(2000), common.tokenizer(), 400))


def model_folder(size: str) -> Path:
    """The checkpoint with random weights that the floor and the peer read."""
    return Path(yardstick().model_dir(size))


def _datums(examples: Sequence[Encoded]) -> list[Any]:
    """Each next token of an assistant counts, all of a step alike, so that their sum is the mean."""
    import numpy as np

    from crucible_train.types import Datum, ModelInput, TensorData

    masks = [np.asarray(mask[1:], dtype=np.float32) for _, mask in examples]
    share = np.float32(1 / sum(float(mask.sum()) for mask in masks))
    return [
        Datum(
            ModelInput.from_ints(tokens[:-1]),
            {"target_tokens": TensorData.of(tokens[1:]), "weights": TensorData.of(mask * share)},
        )
        for (tokens, _), mask in zip(examples, masks, strict=True)
    ]


def train(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of one run of ours."""
    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import AdamParams, LoraConfig

    encoded = conversations()
    backend = LocalBackend(
        device="cpu", num_threads=options.threads, dtype=options.dtype, local_files_only=True
    )
    lora = LoraConfig(rank=32, alpha=64, train_unembed=False) if options.mode == "lora" else None
    spec = TrainingSpec(
        base_model=str(model_folder(options.size)), lora=lora, seed=0, checkpoint_dir=folder / "checkpoints"
    )
    client = asyncio.run(backend.create_training_client(spec))
    adam = AdamParams(
        learning_rate=1e-4, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0
    )
    steps: list[dict[str, float]] = []
    for number in range(options.steps):
        examples = encoded[(number * options.batch) % 392 :][: options.batch]
        wall, cpu = time.perf_counter(), time.process_time()
        done = client.forward_backward(_datums(examples))
        client.optim_step(adam).result()
        loss = done.result().metrics["loss:sum"]
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        steps.append({**took, "loss": loss, "tokens": float(sum(len(tokens) for tokens, _ in examples))})
    counted = steps[options.warm :]
    figures = {
        "tokens_per_cpu_s": statistics.median(step["tokens"] / step["cpu"] for step in counted),
        "tokens_per_s": statistics.median(step["tokens"] / step["wall"] for step in counted),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "dtype": str(client._trainer.model.dtype).removeprefix("torch."),  # type: ignore[attr-defined]
    }
    asyncio.run(backend.close())
    return figures


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Options of one run of ours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("who", choices=("ours",))
    parser.add_argument("--size", default="5m")
    parser.add_argument("--mode", choices=MODES, default="lora")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One run of ours in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return train(options, Path(folder))


def tell(figures: dict[str, Any]) -> None:
    """Print figures as the one who started this process reads them."""
    print("JSON " + json.dumps(figures))


def main(arguments: Sequence[str]) -> int:
    """One run of ours; its figures are the last line."""
    tell(run(parsed(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
