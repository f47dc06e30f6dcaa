"""A2: sl_basic on real text learns, and equals a plain transformers + peft loop step by step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STEPS, BATCH, LENGTH, RATE = 100, 4, 256, 2e-3


def dolly(shared_data: Path) -> Path:
    return shared_data / "datasets" / "dolly_hhrlhf" / "train_small.jsonl"


class PlainLoop:
    """What a person would write: one padded batch, one loss, one AdamW."""

    def __init__(self, model: Path, adapter: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.torch = torch
        self.model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=RATE,
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=0.0,
        )

    def nll(self, datums: Sequence[Any]) -> Any:
        """Weighted sum of negative log-likelihoods, and the sum of the weights."""
        torch = self.torch
        longest = max(datum.model_input.length for datum in datums)
        inputs = torch.zeros((len(datums), longest), dtype=torch.long)
        targets, weights = torch.zeros_like(inputs), torch.zeros((len(datums), longest))
        mask = torch.zeros_like(inputs)
        for row, datum in enumerate(datums):
            n = datum.model_input.length
            inputs[row, :n] = torch.tensor(datum.model_input.to_ints())
            targets[row, :n] = torch.tensor(datum.target_tokens.copy())
            weights[row, :n] = torch.tensor(datum.weights.copy())
            mask[row, :n] = 1
        logits = self.model(input_ids=inputs, attention_mask=mask).logits
        logprobs = torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]
        return -(logprobs * weights).sum(), float(weights.sum())

    def step(self, datums: Sequence[Any], rate: float) -> float:
        """One update; gives the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss, total = self.nll(datums)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach()) / total if total else float("nan")

    def held_out(self, datums: Sequence[Any]) -> float:
        """Mean loss over held-out data."""
        with self.torch.no_grad():
            pieces = [self.nll(datums[i : i + 8]) for i in range(0, len(datums), 8)]
        return sum(float(loss) for loss, _ in pieces) / sum(total for _, total in pieces)


async def initial_adapter(model: Path, folder: Path) -> Path:
    """The adapter that the run starts from, as peft reads it."""
    from crucible_torch.backend import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.seeds import generator
    from crucible_train.types import LoraConfig

    backend = LocalBackend()
    seed = int(generator(0, "lora", 0).integers(2**31))
    spec = TrainingSpec(
        base_model=str(model),
        lora=LoraConfig(rank=8, seed=seed),
        seed=0,
        checkpoint_dir=folder / "checkpoints",
        dtype="float32",
    )
    client = await backend.create_training_client(spec)
    weights = await client.save_weights_for_sampler("initial")
    exported = backend.export(weights, folder / "adapter", merge=False)
    await client.close()
    await backend.close()
    return exported


def batches(model: Path, data: Path) -> tuple[list[list[Any]], list[Any]]:
    """The run's batches and held-out examples, from the rows themselves."""
    from crucible_datasets import LocalDatasetStore
    from crucible_ir import DatasetRef
    from crucible_torch.tokenizer import load_tokenizer
    from crucible_train.renderers import get_renderer, message_from_dict
    from crucible_train.supervised import conversation_to_datum

    store, renderer = LocalDatasetStore(), get_renderer("role_colon", load_tokenizer(model))

    def datums(**of: int) -> list[Any]:
        rows = store.load(DatasetRef(id=str(data), shuffle_seed=0, mapping={"schema": "auto"}, **of)).rows
        return [
            conversation_to_datum([message_from_dict(m) for m in row["messages"]], renderer, LENGTH)
            for row in rows
        ]

    train, held_out = datums(skip=32, limit=BATCH * STEPS), datums(limit=32)
    order = np.random.default_rng(0).permutation(len(train))
    return [[train[i] for i in order[n * BATCH : (n + 1) * BATCH]] for n in range(STEPS)], held_out


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings", "ignore:.is_gradient_checkpointing.")
@pytest.mark.parametrize("which", ["tiny", "stories260K"])
def test_sl_basic_on_dolly_equals_a_plain_loop_at_every_step(
    crucible: Any, shared_data: Path, tmp_path: Path, which: str
) -> None:
    import crucible_tiny

    model = crucible_tiny.model_path() if which == "tiny" else shared_data / "models" / which
    data = dolly(shared_data)
    code, _, err = crucible(
        "run", "sl_basic", f"model={model}", f"data.path={data}", "data.eval_split=none", "data.test_size=32",
        f"data.limit={BATCH * STEPS}", f"batch_size={BATCH}", f"max_length={LENGTH}", f"learning_rate={RATE}",
        "lora_rank=8", "eval_every=50", "save_every=0", "sample_prompts=0", "dtype=float32", "-q",
    )  # fmt: skip
    assert code == 0, err
    (run_dir,) = crucible.run_dirs()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [float(row["metrics"]["train_mean_nll"]) for row in rows if "train_mean_nll" in row["metrics"]]
    held_out = {row["step"]: row["metrics"]["test/nll"] for row in rows if "test/nll" in row["metrics"]}

    adapter = asyncio.run(initial_adapter(model, tmp_path))
    steps, examples = batches(model, data)
    plain = PlainLoop(model, adapter)
    assert len(losses) == STEPS
    assert sum(np.isnan(losses)) < STEPS / 10  # batches that were cut before their first answer
    assert plain.held_out(examples) == pytest.approx(held_out[0], abs=1e-4)
    for number, batch in enumerate(steps):
        if number == 50:
            assert plain.held_out(examples) == pytest.approx(held_out[50], abs=1e-4)
        loss = plain.step(batch, RATE * (1 - number / STEPS))
        assert loss == pytest.approx(losses[number], abs=1e-4, nan_ok=True), f"step {number}"
    assert plain.held_out(examples) == pytest.approx(held_out[STEPS], abs=1e-4)
    assert held_out[STEPS] < held_out[0] - 0.2
