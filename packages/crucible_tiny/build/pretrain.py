"""Pre-training: packed text, Muon for the inner matrices, AdamW for the rest, one pass, one seed, one thread count."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """How long and how fast. `batch` rows of `context` tokens a step; both rates warm up, hold, then fall to zero."""

    steps: int = 800
    batch: int = 16
    context: int = 256
    muon_rate: float = 0.02
    adam_rate: float = 0.005
    weight_decay: float = 0.01
    warmup: int = 40
    cooldown: float = 0.4
    threads: int = 2


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of the token `text`; `KeyError` where the tokenizer has none."""
    found = tokenizer.token_to_id(text)
    if found is None:
        raise KeyError(text)
    return int(found)


def packed_rows(texts: Iterable[str], tokenizer: Tokenizer, context: int) -> Iterator[np.ndarray]:
    """Rows of `context` token ids, int64: documents end to end, each closed by `<|endoftext|>`."""
    end = token_id(tokenizer, "<|endoftext|>")
    held: list[int] = []
    for text in texts:
        held += tokenizer.encode(text).ids
        held.append(end)
        while len(held) >= context:
            yield np.asarray(held[:context], dtype=np.int64)
            held = held[context:]


def rate_factor(step: int, plan: Pretraining) -> float:
    """What the rates are multiplied by at `step`: up over the warm-up, one, then down in a straight line."""
    falling = (plan.steps - step) / max(1, math.ceil(plan.steps * plan.cooldown))
    return min(1.0, (step + 1) / plan.warmup, falling)


def _optimizers(model: Qwen3ForCausalLM, plan: Pretraining) -> list[torch.optim.Optimizer]:
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=plan.muon_rate, weight_decay=plan.weight_decay),
        torch.optim.AdamW(rest, lr=plan.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(
    model: Qwen3ForCausalLM, rows: Iterator[np.ndarray], plan: Pretraining, say: Callable[[str], None]
) -> float:
    """Trains in place and returns the mean loss, nats a token, of the last fifty steps."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)
    optimizers = _optimizers(model, plan)
    first_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step in range(plan.steps):
        for optimizer, first in zip(optimizers, first_rates, strict=True):
            optimizer.param_groups[0]["lr"] = first * rate_factor(step, plan)
        tokens = torch.from_numpy(np.stack([next(rows) for _ in range(plan.batch)]))
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            mean = sum(losses[-50:]) / 50
            say(f"step {step + 1}/{plan.steps} loss {mean:.4f} ({time.monotonic() - started:.0f} s)")
    model.eval()
    tail = losses[-50:]
    return sum(tail) / max(1, len(tail))
