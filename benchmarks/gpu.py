"""The engine on a GPU, in one command: shapes of Qwen3-0.6B and 4B with random weights.

    python -m benchmarks.gpu                     needs a CUDA device and about 20 GB of disk
    python -m benchmarks.gpu --self-test         a tiny model on the CPU: does the script itself work

Tells the card's rate of matrix products, LoRA training in tokens per second and as a share of that rate, and sampling
in tokens per second at 1, 32 and 256 sequences; training with TRL on the same data where its environment was made
(``python -m benchmarks install-peer``). Figures are wall time: nothing else should use the card.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import ROOT, peer_python

__all__ = ["Shape", "Work", "main", "training_operations"]

_PREFIX = "JSON "
RANK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Qwen3 whose output layer is its embedding."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int = 128
    vocabulary: int = 151936

    def config(self) -> dict[str, Any]:
        """Settings for transformers."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def layer_widths(self) -> list[tuple[int, int]]:
        """(in, out) of the linear layers of one decoder layer."""
        wide, narrow = self.heads * self.head_dim, self.key_heads * self.head_dim
        attention = [(self.hidden, wide), (self.hidden, narrow), (self.hidden, narrow), (wide, self.hidden)]
        return [*attention, (self.hidden, self.inner), (self.hidden, self.inner), (self.inner, self.hidden)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done with a shape: sequences a step, their longest length, steps, sequences sampled at once."""

    sequences: int
    longest: int
    steps: int
    sampled: tuple[int, ...]
    new_tokens: int

    def batches(self, vocabulary: int) -> list[list[list[int]]]:
        """Random tokens, lengths uniform from a quarter of the longest on; the same for everybody."""
        rng = np.random.Generator(np.random.PCG64(0))
        lengths = rng.integers(self.longest // 4, self.longest + 1, (self.steps, self.sequences))
        return [[rng.integers(0, vocabulary, n).tolist() for n in row] for row in lengths]


SHAPES = (
    Shape(name="qwen3-0.6b", hidden=1024, inner=3072, layers=28, heads=16, key_heads=8),
    Shape(name="qwen3-4b", hidden=2560, inner=9728, layers=36, heads=32, key_heads=8),
)
FULL = Work(sequences=32, longest=1024, steps=8, sampled=(1, 32, 256), new_tokens=128)
TINY = Shape(name="tiny", hidden=32, inner=64, layers=2, heads=4, key_heads=2, head_dim=8, vocabulary=320)
SELF_TEST = Work(sequences=3, longest=32, steps=3, sampled=(1, 4), new_tokens=4)


def training_operations(shape: Shape, lengths: Sequence[int]) -> float:
    """Floating-point operations of a LoRA step: 4 per frozen weight and token, 6 per adapter weight and token.

    Causal attention counts half its square, three times (forward once, backward twice); nothing is counted twice
    that is computed again.
    """
    tokens = sum(lengths)
    frozen = shape.layers * sum(a * b for a, b in shape.layer_widths()) + shape.vocabulary * shape.hidden
    adapter = shape.layers * RANK * sum(a + b for a, b in shape.layer_widths())
    pairs = sum(n * (n + 1) / 2 for n in lengths)
    attention = 3 * 4 * shape.heads * shape.head_dim * shape.layers * pairs
    return 4.0 * frozen * tokens + 6.0 * adapter * tokens + attention


def product_rate(device: str, size: int) -> float:
    """Operations per second of a bfloat16 product of two square matrices of that size."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def work() -> None:
        for _ in range(10):
            left @ right
        _wait(device)

    work()
    return 10 * 2 * size**3 / statistics.median(_seconds(work) for _ in range(5))


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_model(shape: Shape, folder: Path) -> Path:
    """Random weights in bfloat16, and no tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3", **shape.config())
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def train(client: Any, shape: Shape, work: Work) -> tuple[float, float]:
    """Tokens and operations per second of LoRA training, medians; the first step does not count."""
    from crucible_train.types import AdamParams, Datum, ModelInput, TensorData

    found = []
    for batch in work.batches(shape.vocabulary):
        lengths = [len(tokens) - 1 for tokens in batch]
        data = [
            Datum(
                ModelInput.from_ints(tokens[:-1]),
                {
                    "target_tokens": TensorData.of(tokens[1:]),
                    "weights": TensorData.of(np.full(len(tokens) - 1, 1 / sum(lengths), dtype=np.float32)),
                },
            )
            for tokens in batch
        ]
        start = time.perf_counter()
        client.forward_backward(data)
        client.optim_step(AdamParams(learning_rate=1e-4)).result()
        took = time.perf_counter() - start
        found.append((sum(lengths) / took, training_operations(shape, lengths) / took))
    tokens, operations = zip(*found[1:], strict=True)
    return statistics.median(tokens), statistics.median(operations)


def sample(client: Any, shape: Shape, work: Work) -> dict[str, float]:
    """New tokens per second by the number of sequences that grow at once; prompts of 64 tokens or fewer."""
    from crucible_train.types import ModelInput, SamplingParams

    sampler = client.sampling_client().result()
    rng = np.random.Generator(np.random.PCG64(1))
    found = {}
    for count in work.sampled:
        length = min(64, work.longest // 2)
        prompts = [ModelInput.from_ints(rng.integers(0, shape.vocabulary, length)) for _ in range(count)]

        def ask(prompts: list[Any] = prompts) -> None:
            params = SamplingParams(max_tokens=work.new_tokens, seed=0, stop=[])
            for handle in [sampler.sample(prompt, params) for prompt in prompts]:
                handle.result()

        ask()
        found[str(count)] = count * work.new_tokens / statistics.median(_seconds(ask) for _ in range(3))
    return found


def ours(shape: Shape, work: Work, device: str, folder: Path) -> dict[str, Any]:
    """Figures of the engine for a shape."""
    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import LoraConfig

    backend = LocalBackend(
        device="cuda" if device == "cuda" else "cpu", dtype="bfloat16", local_files_only=True
    )
    lora = LoraConfig(rank=min(RANK, shape.key_heads * shape.head_dim), train_unembed=False)
    spec = TrainingSpec(base_model=str(folder), lora=lora, seed=0, checkpoint_dir=folder / "run")
    client = asyncio.run(backend.create_training_client(spec))
    tokens, operations = train(client, shape, work)
    rate = product_rate(device, 8192 if device == "cuda" else 256)
    sampled = sample(client, shape, work)
    asyncio.run(backend.close())
    return {
        "train_tokens_per_s": tokens,
        "product_rate": rate,
        "share_of_product_rate": operations / rate,
        "sample_tokens_per_s": sampled,
    }


def trl(folder: Path, shape: Shape, work: Work, device: str) -> dict[str, Any]:
    """Tokens per second of TRL's SFTTrainer over the same sequences, without checkpointing."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            _wait(device)
            ends.append(time.perf_counter())

    batches = work.batches(shape.vocabulary)
    rows = [{"input_ids": tokens, "labels": tokens} for batch in batches for tokens in batch]
    settings = SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=work.sequences, max_steps=work.steps,
        max_length=work.longest, bf16=device == "cuda", use_cpu=device == "cpu", gradient_checkpointing=False,
        report_to="none", save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(rows), callbacks=[Clock()],
        peft_config=LoraConfig(r=min(RANK, shape.key_heads * shape.head_dim), target_modules="all-linear"),
        processing_class=_no_tokenizer(folder),
    )  # fmt: skip
    trainer.train()
    tokens = [sum(map(len, batch)) for batch in batches[1:]]
    took = [after - before for before, after in pairwise(ends)]
    return {"train_tokens_per_s": statistics.median(n / t for n, t in zip(tokens, took, strict=True))}


def _no_tokenizer(folder: Path) -> Any:
    """The least tokenizer that a trainer takes; the rows are token ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")


def _peer(arguments: Sequence[str]) -> dict[str, Any]:
    """TRL's figures from its own environment, or why there are none."""
    python = peer_python()
    if python is None:
        return {"not run": "TRL is not installed here (python -m benchmarks install-peer)"}
    command = [str(python), "-m", "benchmarks.gpu", "--trl", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
    if done.returncode or not lines:
        return {"not run": f"TRL failed: {(done.stderr or done.stdout).strip()[-600:]}"}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(_PREFIX))
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure every shape; one line of JSON for each. 1 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--self-test", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--trl", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    import torch

    device = "cpu" if options.self_test else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --self-test runs a tiny model on the CPU", file=sys.stderr)
        return 1
    work = SELF_TEST if options.self_test else FULL
    for shape in (TINY,) if options.self_test else SHAPES:
        if options.trl:
            if shape.name == options.shape:
                print(_PREFIX + json.dumps(trl(Path(options.trl), shape, work, device)))
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_model(shape, Path(folder))
            figures = {"shape": shape.name, "device": device, "ours": ours(shape, work, device, Path(folder))}
            if not options.without_peer:
                words = [folder, "--shape", shape.name, *(["--self-test"] if options.self_test else [])]
                figures["TRL"] = _peer(words)
        print(_PREFIX + json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
