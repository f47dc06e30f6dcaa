"""Losses of the engine: value and gradient are those of the numpy reference, for every loss there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crucible_ir import ConfigError, DataError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend, head
from crucible_train.losses import LOSSES
from crucible_train.ports import CustomLoss, TrainingSpec
from crucible_train.preference import DpoSettings, PairDatums, dpo_loss, interleaved, sequence_logprobs
from crucible_train.rl import inputs_for_loss
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

CONFIG: dict[str, dict[str, float]] = {
    "dro": {"beta": 0.3},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
}
POLICY = sorted(set(LOSSES) - {"cross_entropy"})


def make_client(backend: LocalBackend, model: Path, folder: Path) -> Any:
    spec = TrainingSpec(base_model=str(model), lora=LoraConfig(rank=4), seed=1, checkpoint_dir=folder)
    return asyncio.run(backend.create_training_client(spec))


def sampled(client: Any) -> list[Datum]:
    """Datums whose recorded log-probabilities lie around the model's own, some far from them."""
    rng = np.random.Generator(np.random.PCG64(9))
    data = []
    for n in (12, 5, 9):
        tokens = rng.integers(3, 300, n + 1).tolist()
        targets = {"target_tokens": TensorData.of(tokens[1:]), "weights": TensorData.of(np.ones(n))}
        data.append(Datum(ModelInput.from_ints(tokens[:-1]), targets))
    found = client.forward(data).result().logprobs
    return [rolled_out(datum, lp, rng) for datum, lp in zip(data, found, strict=True)]


def rolled_out(datum: Datum, logprobs: Any, rng: np.random.Generator) -> Datum:
    n = len(logprobs)
    mask = (np.arange(n) >= 2).astype(np.float32)
    inputs = {
        "target_tokens": datum.loss_fn_inputs["target_tokens"],
        "logprobs": TensorData.of(mask * (logprobs + rng.normal(0, 0.3, n)), dtype="float32"),
        "advantages": TensorData.of(mask * rng.normal(0, 1, n), dtype="float32"),
        "sequence_ratio_mask": TensorData.of(mask),
        "mask": TensorData.of(mask),
    }
    return Datum(datum.model_input, inputs)


def reference(name: str, config: dict[str, float]) -> Callable[..., CustomLoss]:
    def loss(data: Any, logprobs: Any) -> CustomLoss:
        found = [LOSSES[name].evaluate(lp, d, config) for d, lp in zip(data, logprobs, strict=True)]
        total = sum(value.loss for value in found)
        return CustomLoss(loss=total, gradients=[value.gradient for value in found], metrics={})

    return loss


def test_capabilities_list_every_loss_of_the_reference(backend: LocalBackend) -> None:
    assert backend.capabilities().losses == frozenset(LOSSES)


@pytest.mark.parametrize("name", POLICY)
@pytest.mark.parametrize("budget", [4096, 6])
def test_value_and_gradient_are_those_of_the_reference(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, name: str, budget: int
) -> None:
    client = make_client(make_backend(micro_batch_tokens=budget, head_rows=7), qwen3, tmp_path)
    data, config = sampled(client), CONFIG.get(name, {})
    custom = client.forward_backward_custom(data, reference(name, config)).result()
    expected = client._trainer.gradients.take()
    output = client.forward_backward(data, name, config).result()
    found = client._trainer.gradients.take()
    by_hand = sum(
        LOSSES[name].evaluate(lp, d, config).loss for d, lp in zip(data, output.logprobs, strict=True)
    )
    assert output.metrics["loss:sum"] == pytest.approx(by_hand, rel=1e-9)
    assert output.metrics["loss:sum"] == pytest.approx(custom.metrics["loss:sum"], rel=1e-5)
    assert client.forward(data, name, config).result().metrics["loss:sum"] == pytest.approx(by_hand, rel=1e-5)
    assert set(found) == set(expected)
    assert any(bool(grad.any()) for grad in found.values())
    for key, grad in expected.items():
        scale = grad.abs().max().item()
        torch.testing.assert_close(found[key], grad, atol=1e-5 * max(scale, 1e-8), rtol=1e-4)


@pytest.mark.parametrize("name", POLICY)
def test_a_step_raises_what_was_good_and_lowers_what_was_bad(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, name: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    data = sampled(client)[:2]
    signs = (1.0, -1.0)
    given = []
    before = client.forward(data, "importance_sampling").result().logprobs
    for datum, sign, lp in zip(data, signs, before, strict=True):
        mask = datum.loss_fn_inputs["mask"].array
        on_policy = {
            "logprobs": TensorData.of(lp),
            "advantages": TensorData.of(sign * mask, dtype="float32"),
        }
        given.append(Datum(datum.model_input, {**datum.loss_fn_inputs, **on_policy}))
    client.forward_backward(given, name, CONFIG.get(name, {})).result()
    client.optim_step(AdamParams(learning_rate=1e-3)).result()
    after = client.forward(given, "importance_sampling").result().logprobs
    assert float((after[0] - before[0])[2:].sum()) > 0
    assert float((after[1] - before[1])[2:].sum()) < 0


def test_what_a_loss_cannot_use_is_named_before_anything_runs(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    data = sampled(client)
    with pytest.raises(ConfigError, match="dro needs beta"):
        client.forward_backward(data, "dro")
    with pytest.raises(ConfigError, match="0 ≤ low ≤ high"):
        client.forward_backward(data, "ppo", {"clip_low_threshold": 2.0})
    with pytest.raises(ConfigError, match="stable_reinforce has no public formula"):
        client.forward_backward(data, "stable_reinforce")
    short = Datum(
        data[1].model_input, {**data[1].loss_fn_inputs, "advantages": TensorData.of(np.ones((5, 2)))}
    )
    with pytest.raises(DataError, match=r"data\[1\].loss_fn_inputs.advantages: .*\(5, 2\)"):
        client.forward_backward([data[0], short], "cispo")


def test_preferences_are_learned_through_the_custom_loss(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    rng = np.random.Generator(np.random.PCG64(6))
    data = interleaved(
        PairDatums(
            chosen=make_datum([*prompt, *rng.integers(3, 300, 4).tolist()], prompt=5),
            rejected=make_datum([*prompt, *rng.integers(3, 300, 6).tolist()], prompt=5),
        )
        for prompt in rng.integers(3, 300, (3, 5)).tolist()
    )
    reference = sequence_logprobs(data, client.forward(data).result().logprobs).reshape(-1, 2)
    loss = dpo_loss(reference, DpoSettings(beta=0.5))
    found = []
    for _ in range(4):
        found.append(client.forward_backward_custom(data, loss).result().metrics)
        client.optim_step(AdamParams(learning_rate=3e-3)).result()
    assert found[0]["dpo_loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert found[0]["num_pairs"] == 3
    assert found[-1]["dpo_loss"] < found[1]["dpo_loss"] < found[0]["dpo_loss"]
    assert found[-1]["accuracy"] == 1.0
    assert found[-1]["margin"] > 0


# --- what is computed --------------------------------------------------------------------------------------


@contextmanager
def head_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Positions of every pass over the output layer."""
    seen: list[int] = []
    plain = head.output_layer

    def watched(model: Any) -> Any:
        layer = plain(model)
        logits = layer.logits
        monkeypatch.setattr(layer, "logits", lambda states: (seen.append(len(states)), logits(states))[1])
        return layer

    with monkeypatch.context() as inside:
        inside.setattr(head, "output_layer", watched)
        yield seen


@pytest.mark.parametrize("name", POLICY)
def test_sampled_positions_pass_the_output_layer_once_and_others_not_at_all(
    make_backend: Callable[..., LocalBackend],
    qwen3: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = make_client(make_backend(head_rows=11), qwen3, tmp_path)
    data = [inputs_for_loss(datum, name) for datum in sampled(client)]
    with head_passes(monkeypatch) as seen:
        output = client.forward_backward(data, name, CONFIG.get(name, {})).result()
    sampled_tokens = (12 - 2) + (5 - 2) + (9 - 2)
    assert sum(seen) == sampled_tokens
    assert max(seen) <= 11
    everywhere = client.forward(data, name, CONFIG.get(name, {})).result().logprobs
    for found, whole in zip(output.logprobs, everywhere, strict=True):
        np.testing.assert_allclose(found[2:], whole[2:], atol=1e-5)
        assert not found[:2].any()


def test_a_sequence_longer_than_a_piece_has_the_ratio_of_the_whole_sequence(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grads = []
    for rows in (1024, 3):
        client = make_client(make_backend(head_rows=rows), qwen3, tmp_path / str(rows))
        data = sampled(client)
        with head_passes(monkeypatch) as seen:
            client.forward_backward(data, "gspo").result()
        assert max(seen) <= rows
        grads.append(client._trainer.gradients.take())
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(POLICY) - {"dro"}))
@pytest.mark.parametrize("masked", [True, False])
def test_sequences_without_an_advantage_cost_no_gradient_and_keep_their_log_probabilities(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, name: str, masked: bool
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    data = sampled(client)
    flat = dict(data[0].loss_fn_inputs)
    flat["advantages"] = TensorData.of(np.zeros(12), dtype="float32")
    data[0] = Datum(data[0].model_input, flat)
    if not masked:
        data = [inputs_for_loss(datum, name) for datum in data]
    kept = [inputs_for_loss(datum, name) for datum in data[1:]]
    client.forward_backward(kept, name).result()
    expected = client._trainer.gradients.take()
    graded: list[bool] = []
    hook = client._trainer.model.module.base_model.register_forward_pre_hook(
        lambda module, args: graded.append(torch.is_grad_enabled())
    )
    output = client.forward_backward(data, name).result()
    hook.remove()
    assert sorted(graded) == [False, True]
    for key, grad in client._trainer.gradients.take().items():
        torch.testing.assert_close(grad, expected[key], atol=1e-6, rtol=1e-4)
    everywhere = client.forward(data, name).result().logprobs
    np.testing.assert_allclose(output.logprobs[0][2:], everywhere[0][2:], atol=1e-5)


def test_a_batch_without_any_advantage_is_a_step_of_zero(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    data = []
    for datum in sampled(client):
        flat = np.zeros(datum.model_input.length)
        inputs = {**datum.loss_fn_inputs, "advantages": TensorData.of(flat, dtype="float32")}
        data.append(Datum(datum.model_input, inputs))
    assert client.forward_backward(data, "ppo").result().metrics["loss:sum"] == 0
    assert client.optim_step(AdamParams(learning_rate=1e-3)).result().metrics["unclipped_grad_l2:mean"] == 0


@pytest.mark.parametrize("name", POLICY)
def test_a_token_sampled_with_certainty_has_its_log_probability_without_a_mask(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, name: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    data = []
    for datum in sampled(client):
        certain = datum.loss_fn_inputs["logprobs"].array.copy()
        certain[[2, 3, -1]] = 0
        flat = np.zeros_like(certain)
        inputs = {
            **datum.loss_fn_inputs,
            "logprobs": TensorData.of(certain, dtype="float32"),
            "advantages": TensorData.of(flat, dtype="float32"),
        }
        data.append(inputs_for_loss(Datum(datum.model_input, inputs), name))
    output = client.forward_backward(data, name, CONFIG.get(name, {})).result()
    everywhere = client.forward(data, name, CONFIG.get(name, {})).result().logprobs
    for found, whole in zip(output.logprobs, everywhere, strict=True):
        np.testing.assert_allclose(found[2:], whole[2:], atol=1e-5)
