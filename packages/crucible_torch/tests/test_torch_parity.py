"""Training equals a plain transformers + peft + torch.optim.AdamW loop, step by step."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
STEPS = 12
ADAM = AdamParams(learning_rate=2e-3, weight_decay=0.01, grad_clip_norm=20.0)


def random_batches(steps: int) -> list[list[Datum]]:
    rng = np.random.Generator(np.random.PCG64(9))
    lengths = (17, 6, 30, 6, 11)
    return [[make_datum(rng.integers(3, 300, n).tolist()) for n in lengths] for _ in range(steps)]


def plain_model(folder: Path, spec: TrainingSpec, leaves: dict[str, torch.Tensor]) -> Any:
    """The same model by transformers (and peft), starting from the same adapter values."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if spec.lora is None:
        return model
    paths = sorted({name.rsplit(".lora_", 1)[0] for name in leaves})
    settings = PeftConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=paths,
        lora_dropout=0.0,
    )
    wrapped: Any = get_peft_model(model, settings).eval()
    own = dict(wrapped.named_parameters())
    with torch.no_grad():
        for name, leaf in leaves.items():
            own[f"base_model.model.{name.replace('.weight', '.default.weight')}"].copy_(leaf)
    return wrapped


def plain_losses(model: Any, batches: list[list[Datum]]) -> list[float]:
    """Token-sum losses of a padded loop."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=ADAM.learning_rate,
        betas=(ADAM.beta1, ADAM.beta2),
        eps=ADAM.eps,
        weight_decay=ADAM.weight_decay,
    )
    losses = []
    for batch in batches:
        longest = max(d.model_input.length for d in batch)
        shape = (len(batch), longest)
        ids, targets = (torch.zeros(shape, dtype=torch.long) for _ in range(2))
        mask, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        for row, datum in enumerate(batch):
            n = datum.model_input.length
            ids[row, :n] = torch.tensor(datum.model_input.to_ints())
            targets[row, :n] = torch.from_numpy(datum.target_tokens.copy())
            weights[row, :n] = torch.from_numpy(datum.weights.copy())
            mask[row, :n] = 1
        logprobs = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
        loss = -(weights * logprobs.gather(2, targets[..., None])[..., 0]).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, ADAM.grad_clip_norm)
        optimizer.step()
    return losses


def our_losses(client: Any, batches: list[list[Datum]]) -> list[float]:
    handles = []
    for batch in batches:
        handles.append(client.forward_backward(batch))
        client.optim_step(ADAM)
    return [handle.result().metrics["loss:sum"] for handle in handles]


def compare(backend: LocalBackend, folder: Path, spec: TrainingSpec, batches: list[list[Datum]]) -> None:
    client: Any = asyncio.run(backend.create_training_client(spec))
    start = {name: leaf.detach().clone() for name, leaf in client._trainer.weights.leaves.items()}
    theirs = plain_losses(plain_model(folder, spec, start), batches)
    ours = our_losses(client, batches)
    tokens = [sum(d.num_loss_tokens for d in batch) for batch in batches]
    difference = [abs(a - b) / n for a, b, n in zip(ours, theirs, tokens, strict=True)]
    assert max(difference) < 1e-5, difference
    assert ours[-1] / tokens[-1] < ours[0] / tokens[0]


@pytest.mark.parametrize("kind", ["qwen3", "untied", "gpt2"])
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "full"])
def test_training_equals_a_plain_loop(
    kind: str, full: bool, backend: LocalBackend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    lora = None if full else LoraConfig(rank=4, alpha=8.0)
    spec = TrainingSpec(base_model=str(folder), lora=lora, seed=5, checkpoint_dir=tmp_path)
    batch = random_batches(1)[0]
    compare(backend, folder, spec, [batch] * STEPS)


@pytest.mark.parametrize(
    "lora",
    [LoraConfig(rank=8), LoraConfig(rank=8, train_mlp=False, train_unembed=False)],
    ids=["all", "attn"],
)
@pytest.mark.real
def test_training_a_real_model_on_real_text_equals_a_plain_loop(
    backend: LocalBackend, shared_data: Path, tmp_path: Path, lora: LoraConfig
) -> None:
    folder = shared_data / "models" / "stories260K"
    tokenizer = asyncio.run(backend.load_tokenizer(str(folder)))
    source = shared_data / "datasets" / "dolly_hhrlhf" / "train_small.jsonl"
    batches: list[list[Datum]] = [[]]
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            prompt = tokenizer.encode(row["prompt"])[-40:]
            answer = tokenizer.encode(row["response"])[:60]
            if len(answer) < 2:
                continue
            batches[-1].append(make_datum([1, *prompt, *answer], prompt=1 + len(prompt)))
            if len(batches[-1]) == 8:
                if len(batches) == 20:
                    break
                batches.append([])
    spec = TrainingSpec(base_model=str(folder), lora=lora, seed=5, checkpoint_dir=tmp_path)
    compare(backend, folder, spec, batches)
