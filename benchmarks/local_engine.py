"""How fast the local engine samples rollouts and takes a policy-gradient step; one line of JSON per figure.

    python benchmarks/local_engine.py rollouts --threads 1
    python benchmarks/local_engine.py policy --threads 1 --model random

``rollouts``: 16 prompts x 8 samples x 32 tokens, one request per sample and one per group. ``policy``:
``forward_backward`` on 32 sequences of 96 prompt and 32 sampled tokens, half of them without an advantage. Processor
time is given beside wall time, since it depends less on what else runs on the machine. To compare two versions of
the engine, put the folder of the other one into PYTHONPATH.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crucible_tiny import model_path
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import Datum, LoraConfig, ModelInput, SamplingParams, TensorData

PROMPTS, GROUP, TOKENS = 16, 8, 32


def random_model(folder: Path) -> Path:
    """A Qwen3 of 60 million parameters, half of them in the output layer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen3", vocab_size=32000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def measured(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median wall and processor seconds after one run that is not counted."""
    work()
    walls, processor = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    return {"wall_s": statistics.median(walls), "processor_s": statistics.median(processor)}


def told(figures: dict[str, Any]) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(figures) + "\n")


def rollouts(backend: LocalBackend, model: Path, repeats: int) -> None:
    """Samples per second, asked for one by one and in groups."""
    sampler = asyncio.run(backend.create_sampling_client(str(model)))
    rng = np.random.Generator(np.random.PCG64(0))
    prompts = [
        ModelInput.from_ints(rng.integers(5, 1000, int(size)).tolist())
        for size in rng.integers(20, 60, PROMPTS)
    ]

    def ask(members: int) -> None:
        handles = [
            sampler.sample(prompt, SamplingParams(max_tokens=TOKENS, seed=seed, stop=[]), num_samples=members)
            for prompt in prompts
            for seed in range(GROUP // members)
        ]
        for handle in handles:
            handle.result()

    for name, members in (("one request per sample", 1), ("one request per group", GROUP)):
        took = measured(lambda members=members: ask(members), repeats)  # type: ignore[misc]
        rate = {f"rollouts_per_{key}": PROMPTS * GROUP / value for key, value in took.items()}
        told({"what": name, **took, **rate})


def policy(backend: LocalBackend, model: Path, repeats: int) -> None:
    """Seconds of a call of ``forward_backward`` for each policy loss."""
    rng = np.random.Generator(np.random.PCG64(0))
    data = []
    for index in range(32):
        tokens = rng.integers(5, 1000, 129).tolist()
        mask = (np.arange(128) >= 96).astype(np.float32)
        advantage = float(rng.normal()) if index % 2 else 0.0
        inputs = {
            "target_tokens": TensorData.of(tokens[1:]),
            "logprobs": TensorData.of(-7 * mask, dtype="float32"),
            "advantages": TensorData.of(advantage * mask, dtype="float32"),
            "sequence_ratio_mask": TensorData.of(mask, dtype="float32"),
        }
        data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
    with tempfile.TemporaryDirectory() as folder:
        spec = TrainingSpec(
            base_model=str(model), lora=LoraConfig(rank=16), seed=0, checkpoint_dir=Path(folder)
        )
        client = asyncio.run(backend.create_training_client(spec))
        for name in ("importance_sampling", "ppo", "gspo"):
            took = measured(lambda name=name: client.forward_backward(data, name).result(), repeats)  # type: ignore[misc]
            told({"what": name, **took})


def main(arguments: list[str]) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("rollouts", "policy"))
    parser.add_argument("--model", choices=("tiny", "random"), default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder)) if options.model == "random" else model_path()
        backend = LocalBackend(device="cpu", num_threads=options.threads, local_files_only=True)
        (rollouts if options.what == "rollouts" else policy)(backend, model, options.repeats)
        asyncio.run(backend.close())


if __name__ == "__main__":
    main(sys.argv[1:])
