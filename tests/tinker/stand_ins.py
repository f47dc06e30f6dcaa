"""What the recipes of both sides run on: two small models under known names, and a hub that serves their data."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from crucible_testing.hub import LocalHub
from crucible_testing.hub_fixtures import no_robots_files, tulu3_files
from crucible_testing.hub_problems import deepmath_rows, gsm8k_rows, hh_rlhf_rows, packed

__all__ = ["STUDENT", "TEACHER", "add_repositories", "gsm8k", "write_model"]

STUDENT = "Qwen/Qwen3-4B-Instruct-2507"
TEACHER = "Qwen/Qwen3-8B"
"""Names that both sides have in their tables of models."""

_SIZES = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
_LESSONS = 80
_TEST_ROWS = 48


def gsm8k(*, rows: int) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """The first rows of GSM8K where the shared data is, else generated ones; and whether they are the real ones."""
    data = Path(os.environ.get("CRUCIBLE_DATA") or Path(__file__).resolve().parents[3] / "shared/data")
    folder = data / "datasets" / "gsm8k"
    counts = {"train": rows, "test": _TEST_ROWS}
    if not folder.is_dir():
        return {split: gsm8k_rows(split, count=count) for split, count in counts.items()}, False
    found = {}
    for split, count in counts.items():
        lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        found[split] = [json.loads(line) for line in lines[:count]]
    return found, True


def add_repositories(hub: LocalHub, models: dict[str, Path], *, steps: int) -> dict[str, Any]:
    """Put enough rows for ``steps`` steps and the models' tokenizers onto the hub; returns what the rows are."""
    problems, real = gsm8k(rows=8 * steps)
    hub.add("openai/gsm8k", packed({"main": problems, "socratic": problems}))
    hub.add("HuggingFaceH4/no_robots", no_robots_files(count=128 * steps + 40, held_out=128))
    hub.add("allenai/tulu-3-sft-mixture", tulu3_files(count=1024 + 32 * steps))
    pairs = {"train": hh_rlhf_rows("train", count=16 * steps), "test": hh_rlhf_rows("test", count=40)}
    hub.add("Anthropic/hh-rlhf", packed({"default": pairs}, suffix="jsonl.gz"))
    hub.add("zwhe99/DeepMath-103K", packed({"default": {"train": deepmath_rows(count=8 * steps)}}))
    hub.add("open-thoughts/OpenThoughts3-1.2M", packed({"default": {"train": thoughts(16 * steps)}}))
    for name, folder in models.items():
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
        hub.add(name, files, repo_type="model")
    return {"gsm8k": "real rows" if real else "generated rows"}


def thoughts(count: int) -> list[dict[str, Any]]:
    """Rows with the columns of open-thoughts/OpenThoughts3-1.2M."""
    rng = random.Random("thoughts")
    return [
        {
            "difficulty": rng.randint(1, 9),
            "source": "fixture",
            "domain": "math",
            "conversations": [
                {"from": "human", "value": f"What is {x} + {y}? (fixture {number})"},
                {"from": "gpt", "value": f"<think>\n{x} and {y}.\n</think>\n\nIt is \\boxed{{{x + y}}}."},
            ],
        }
        for number, (x, y) in enumerate((rng.randint(1, 99), rng.randint(1, 99)) for _ in range(count))
    ]


def write_model(folder: Path, scratch: Path, *, seed: int) -> Path:
    """A small Qwen 3 with the bundled tokenizer that has learned, on our own engine, to answer with boxed numbers.

    Without that no answer would have the form that earns a reward, every advantage would be 0, and equal losses
    would say nothing.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import crucible_tiny

    raw = scratch / f"raw_{seed}"
    shutil.copytree(crucible_tiny.model_path(), raw)
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model("qwen3", **_SIZES, **ends)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(raw)
    return asyncio.run(_taught(raw, folder, scratch, seed))


async def _taught(raw: Path, folder: Path, scratch: Path, seed: int) -> Path:
    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.renderers import get_renderer
    from crucible_train.supervised import conversation_to_datum
    from crucible_train.types import AdamParams

    backend = LocalBackend(device="cpu", dtype="float32")
    renderer = get_renderer("qwen3_instruct", await backend.load_tokenizer(str(raw)))
    spec = TrainingSpec(base_model=str(raw), lora=None, seed=seed, checkpoint_dir=scratch / f"state_{seed}")
    client = await backend.create_training_client(spec)
    rng = random.Random(f"lessons {seed}")
    for _ in range(_LESSONS):
        lessons = [conversation_to_datum(_lesson(rng), renderer) for _ in range(16)]
        client.forward_backward(lessons)
        await client.optim_step(AdamParams(learning_rate=3e-3))
    backend.export(await client.save_weights_for_sampler("taught"), folder, merge=True)
    await backend.close()
    return folder


def _lesson(rng: random.Random) -> list[Any]:
    from crucible_train.renderers import messages_from_dicts

    words = rng.choices(("How", "many", "are", "7", "left", "of", "12", "\\boxed{3}"), k=rng.randint(3, 60))
    number = rng.choice((2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 20, 24, 30, 40, 50, 60, 100))
    asked = {"role": "user", "content": " ".join(words)}
    said = {"role": "assistant", "content": f"\\boxed{{{number}}}"}
    return messages_from_dicts([asked, said])
