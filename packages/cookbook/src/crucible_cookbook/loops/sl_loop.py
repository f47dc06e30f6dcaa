"""Supervised fine-tuning in one function: what ``sl_basic`` does, without the framework around it.

``python -m crucible_cookbook.loops.sl_loop`` trains the bundled tiny model on the bundled chats. A test
holds that the losses are those of the recipe, step by step.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crucible_cookbook.bundled import bundled_data, bundled_model
from crucible_torch.backend import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.renderers import get_renderer, message_from_dict
from crucible_train.schedules import lr_multiplier
from crucible_train.seeds import generator
from crucible_train.supervised import compute_mean_nll, conversation_to_datum
from crucible_train.types import AdamParams, LoraConfig

__all__ = ["LoopConfig", "sl_loop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Settings of the loop."""

    model: Path
    data: Path
    renderer: str = "role_colon"
    max_length: int = 512
    batch_size: int = 32
    steps: int = 20
    learning_rate: float = 2e-3
    lora_rank: int = 32
    seed: int = 0


async def sl_loop(config: LoopConfig, report: Callable[[int, float], None]) -> list[float]:
    """Train for ``config.steps`` steps of the first epoch; gives the loss of each (nats per weighted token)."""
    with tempfile.TemporaryDirectory() as folder:
        backend = LocalBackend()
        tokenizer = await backend.load_tokenizer(str(config.model))
        renderer = get_renderer(config.renderer, tokenizer)

        # Conversations, in an order that depends on the seed alone, become tokens with loss weights.
        rows = [json.loads(line) for line in config.data.read_text("utf-8").strip().split("\n")]
        rows = [rows[i] for i in np.random.default_rng(config.seed).permutation(len(rows))]
        datums = [
            conversation_to_datum(
                [message_from_dict(message) for message in row["messages"]], renderer, config.max_length
            )
            for row in rows
        ]

        # A low-rank adapter over the base model: only the adapter learns.
        spec = TrainingSpec(
            base_model=str(config.model),
            lora=LoraConfig(
                rank=config.lora_rank, seed=int(generator(config.seed, "lora", 0).integers(2**31))
            ),
            seed=config.seed,
            checkpoint_dir=Path(folder),
            dtype="float32",
        )
        client = await backend.create_training_client(spec)

        # The first epoch orders the ordered rows once more, as upstream does.
        order = np.random.default_rng(0).permutation(len(datums))
        total, losses = len(datums) // config.batch_size, list[float]()
        for step in range(min(config.steps, total)):
            batch = [datums[i] for i in order[step * config.batch_size : (step + 1) * config.batch_size]]
            rate = config.learning_rate * lr_multiplier("linear", step, total)

            # Both are submitted before either is awaited; they are done in this order.
            passed = client.forward_backward(batch, "cross_entropy")
            stepped = client.optim_step(AdamParams(learning_rate=rate))
            output = await passed
            await stepped

            losses.append(compute_mean_nll(output.logprobs, [datum.weights for datum in batch]))
            report(step, losses[-1])
        await client.close()
        await backend.close()
    return losses


def _say(step: int, loss: float) -> None:
    sys.stdout.write(f"step {step + 1}  loss {loss:.4f}\n")


if __name__ == "__main__":
    asyncio.run(sl_loop(LoopConfig(model=bundled_model(), data=bundled_data("chat_train")), _say))
