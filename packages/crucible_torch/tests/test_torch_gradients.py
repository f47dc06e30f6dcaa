"""Gradients equal those of float64 autograd over a plain implementation of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingSpec
from crucible_train.types import Datum, LoraConfig, TensorData

Weights = dict[str, torch.Tensor]
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions over [heads, tokens, width], base 10,000."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * rates
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def plain_logprobs(w: Weights, linear: Callable[..., torch.Tensor], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of a Qwen3 with two layers, in float64, written out."""
    x = w["model.embed_tokens.weight"][tokens]
    n = len(tokens)
    for layer in range(2):
        p = f"model.layers.{layer}."
        h = norm(x, w[p + "input_layernorm.weight"])
        q = linear(p + "self_attn.q_proj", h).view(n, HEADS, WIDTH)
        k = linear(p + "self_attn.k_proj", h).view(n, KEY_HEADS, WIDTH)
        v = linear(p + "self_attn.v_proj", h).view(n, KEY_HEADS, WIDTH).transpose(0, 1)
        q = rotate(norm(q, w[p + "self_attn.q_norm.weight"]).transpose(0, 1))
        k = rotate(norm(k, w[p + "self_attn.k_norm.weight"]).transpose(0, 1))
        k, v = (t.repeat_interleave(HEADS // KEY_HEADS, 0) for t in (k, v))
        scores = q @ k.transpose(1, 2) / WIDTH**0.5
        scores = scores + torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, HEADS * WIDTH)
        x = x + linear(p + "self_attn.o_proj", mixed)
        h = norm(x, w[p + "post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(linear(p + "mlp.gate_proj", h))
        x = x + linear(p + "mlp.down_proj", gate * linear(p + "mlp.up_proj", h))
    return torch.log_softmax(linear("lm_head", norm(x, w["model.norm.weight"])), dim=-1)


def plain_loss(w: Weights, linear: Callable[..., torch.Tensor], data: list[Datum]) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for datum in data:
        lp = plain_logprobs(w, linear, datum.model_input.to_ints())
        targets = torch.from_numpy(datum.target_tokens.copy()).reshape(len(lp), -1)
        weights = torch.from_numpy(datum.weights.copy()).double().reshape(len(lp), -1)
        total = total - (weights * lp.gather(1, targets)).sum()
    return total


def examples() -> list[Datum]:
    rng = np.random.Generator(np.random.PCG64(1))
    data = [make_datum(rng.integers(3, 300, n).tolist()) for n in (12, 5, 9, 5)]
    targets = rng.integers(3, 300, (6, 3))
    soft = {
        "target_tokens": TensorData.of(targets),
        "weights": TensorData.of(rng.random((6, 3)) * (rng.random((6, 1)) > 0.3), dtype="float32"),
    }
    return [*data, Datum(data[0].model_input.from_ints(rng.integers(3, 300, 6)), soft)]


def doubled(folder: Path) -> Weights:
    loaded = {name: t.double() for name, t in load_file(folder / "model.safetensors").items()}
    loaded.setdefault("lm_head.weight", loaded["model.embed_tokens.weight"])
    return loaded


def gradients(client: Any, data: list[Datum]) -> tuple[float, Weights]:
    loss = client.forward_backward(data).result().metrics["loss:sum"]
    return loss, client._trainer.gradients.take()


@pytest.mark.parametrize("budget", [4096, 13, 1])
def test_gradients_of_an_adapter_equal_float64_autograd(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, budget: int
) -> None:
    backend = make_backend(micro_batch_tokens=budget, head_rows=7)
    spec = TrainingSpec(
        base_model=str(qwen3), lora=LoraConfig(rank=4, alpha=6.0), seed=3, checkpoint_dir=tmp_path
    )
    client: Any = asyncio.run(backend.create_training_client(spec))
    generator = torch.Generator().manual_seed(2)
    leaves = client._trainer.weights.leaves
    with torch.no_grad():
        for name, leaf in leaves.items():
            if "lora_B" in name:
                leaf.copy_(torch.randn(leaf.shape, generator=generator) * 0.1)
    w = doubled(qwen3)
    plain = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}

    def linear(path: str, x: torch.Tensor) -> torch.Tensor:
        low = x @ plain[f"{path}.lora_A.weight"].t() @ plain[f"{path}.lora_B.weight"].t()
        return torch.add(x @ w[f"{path}.weight"].t(), low, alpha=1.5)

    expected = plain_loss(w, linear, examples())
    torch.autograd.backward(expected)
    loss, found = gradients(client, examples())
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert set(found) == set(plain)
    for name, leaf in plain.items():
        assert leaf.grad is not None
        scale = leaf.grad.abs().max().item()
        np.testing.assert_allclose(
            found[name].double().numpy(), leaf.grad.numpy(), atol=3e-6 * scale, rtol=1e-4
        )


@pytest.mark.parametrize("budget", [4096, 1])
def test_gradients_of_full_finetuning_equal_float64_autograd(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, budget: int
) -> None:
    backend = make_backend(micro_batch_tokens=budget, head_rows=5)
    spec = TrainingSpec(base_model=str(qwen3), lora=None, seed=3, checkpoint_dir=tmp_path)
    client: Any = asyncio.run(backend.create_training_client(spec))
    w = {name: t.requires_grad_() for name, t in doubled(qwen3).items()}
    w["lm_head.weight"] = w["model.embed_tokens.weight"]
    expected = plain_loss(w, lambda path, x: x @ w[f"{path}.weight"].t(), examples())
    torch.autograd.backward(expected)
    loss, found = gradients(client, examples())
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for name, grad in found.items():
        wanted = w[name].grad
        assert wanted is not None
        scale = wanted.abs().max().item()
        np.testing.assert_allclose(grad.double().numpy(), wanted.numpy(), atol=3e-6 * scale, rtol=1e-4)
