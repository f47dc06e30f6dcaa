"""Training: packing, micro-batches, which log-probabilities are computed, bad data, bfloat16."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crucible_ir import ConfigError, DataError, TrainError
from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_torch.attention import PackedPlan, attend
from crucible_torch.optimizer import AdamW
from crucible_torch.packing import Run, micro_batches, read_examples
from crucible_train.ports import CustomLoss, TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData


def make_client(backend: LocalBackend, model: Path, folder: Path, **changes: Any) -> Any:
    spec = TrainingSpec(
        base_model=str(model), seed=1, checkpoint_dir=folder, **{"lora": LoraConfig(rank=4), **changes}
    )
    return asyncio.run(backend.create_training_client(spec))


def some_data() -> list[Datum]:
    rng = np.random.Generator(np.random.PCG64(4))
    return [make_datum(rng.integers(3, 300, n).tolist(), prompt=3) for n in (20, 7, 7, 31, 4)]


# --- packing -----------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_every_token_lands_in_exactly_one_micro_batch(lengths: list[int], budget: int) -> None:
    data = [make_datum([100 + i] * (n + 1), prompt=1) for i, n in enumerate(lengths)]
    batches = micro_batches(read_examples(data, max_positions=None, vocab_size=1000), budget)
    seen = [example.index for batch in batches for example in batch.examples]
    assert sorted(seen) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch.tokens) <= budget or len(batch.examples) == 1
        assert len(batch.tokens) == sum(run.count * run.length for run in batch.runs)
        ends = [run.start + run.count * run.length for run in batch.runs]
        assert [run.start for run in batch.runs] == [0, *ends[:-1]]
        assert (batch.positions == 0).sum() == len(batch.examples)
        for example in batch.examples:
            assert (batch.tokens == 100 + example.index).sum() == example.length


@pytest.mark.parametrize("kind", ["qwen3", "untied", "gpt2"])
def test_packed_examples_equal_examples_alone(
    kind: str, backend: LocalBackend, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    client = make_client(backend, request.getfixturevalue(kind), tmp_path)
    data = some_data()
    together = client.forward(data).result().logprobs
    for datum, packed in zip(data, together, strict=True):
        alone = client.forward([datum]).result().logprobs[0]
        np.testing.assert_allclose(packed, alone, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 3, 9])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_over_runs_equals_masked_attention(window: int | None, key_heads: int) -> None:
    generator = torch.Generator().manual_seed(6)
    runs = (Run(0, 2, 5), Run(10, 1, 3), Run(13, 3, 1))
    query = torch.randn(1, 4, 16, 8, generator=generator)
    key, value = (torch.randn(1, key_heads, 16, 8, generator=generator) for _ in range(2))
    found, _ = attend(
        None, query, key, value, None, scaling=0.3, sliding_window=window, crucible_plan=PackedPlan(runs)
    )
    owner = torch.tensor([0] * 5 + [1] * 5 + [2] * 3 + [3, 4, 5])
    place = torch.arange(16)
    back = place[:, None] - place[None]
    allowed = (owner[:, None] == owner[None]) & (back >= 0) & (back < (window or 99))
    k, v = (t.repeat_interleave(4 // key_heads, 1) for t in (key, value))
    scores = (query @ k.transpose(2, 3) * 0.3).masked_fill(~allowed, float("-inf"))
    expected = (scores.softmax(-1) @ v).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_kind_of_attention_that_is_not_here_is_refused() -> None:
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(TrainError, match="softcap"):
        attend(None, x, x, x, None, softcap=30.0, crucible_plan=PackedPlan((Run(0, 1, 2),)))
    with pytest.raises(TrainError, match="mask"):
        attend(None, x, x, x, None)


# --- which log-probabilities -------------------------------------------------------------------------------


def test_log_probabilities_are_computed_where_weights_are(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path
) -> None:
    data = some_data()
    sparse = make_client(make_backend(), qwen3, tmp_path)
    dense = make_client(make_backend(logprobs_at="all"), qwen3, tmp_path)
    full = sparse.forward(data).result()
    weighted = sparse.forward_backward(data).result()
    everywhere = dense.forward_backward(data).result()
    for datum, a, b, c in zip(data, full.logprobs, weighted.logprobs, everywhere.logprobs, strict=True):
        counted = datum.weights != 0
        np.testing.assert_allclose(a, c, atol=1e-5)
        np.testing.assert_allclose(a[counted], b[counted], atol=1e-5)
        np.testing.assert_array_equal(c[counted], b[counted])
        assert (b[~counted] == 0).all()
        assert (a[~counted] < 0).all()
    assert weighted.metrics == everywhere.metrics
    grads = [client._trainer.gradients.take() for client in (sparse, dense)]
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name])


def test_data_without_any_weight_has_a_loss_of_zero(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    datum = make_datum([5, 6, 7, 8], prompt=4)
    assert datum.num_loss_tokens == 0
    assert client.forward_backward([datum]).result().metrics["loss:sum"] == 0


def test_the_same_call_gives_the_same_bytes(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path
) -> None:
    outputs = []
    for _ in range(2):
        client = make_client(make_backend(), qwen3, tmp_path)
        for _ in range(3):
            client.forward_backward(some_data())
            client.optim_step(AdamParams(learning_rate=1e-2))
        outputs.append(client.forward(some_data()).result())
    assert outputs[0] == outputs[1]


# --- custom losses -----------------------------------------------------------------------------------------


def squared(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
    return CustomLoss(
        loss=float(sum((lp**2).sum() for lp in logprobs)), gradients=[2 * lp for lp in logprobs], metrics={}
    )


def test_a_custom_loss_over_several_micro_batches_equals_one(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path
) -> None:
    found = []
    for budget in (4096, 20):
        client = make_client(make_backend(micro_batch_tokens=budget), qwen3, tmp_path)
        out = client.forward_backward_custom(some_data(), squared).result()
        found.append((out.metrics, client._trainer.gradients.take()))
    assert found[0][0]["surrogate_loss:sum"] == pytest.approx(2 * found[0][0]["loss:sum"], rel=1e-5)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("broken", "error", "named"),
    [
        (lambda lps: CustomLoss(loss=0.0, gradients=[], metrics={}), DataError, "0 gradients for 5"),
        (lambda lps: CustomLoss(loss=0.0, gradients=[lp[1:] for lp in lps], metrics={}), DataError, "shape"),
        (
            lambda lps: CustomLoss(loss=0.0, gradients=[lp * np.nan for lp in lps], metrics={}),
            TrainError,
            "finite",
        ),
        (
            lambda lps: CustomLoss(loss=0.0, gradients=[lp + 1 for lp in lps], metrics={}),
            DataError,
            "weight 0",
        ),
    ],
)
def test_a_broken_custom_loss_is_named_and_leaves_no_gradient(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, broken: Any, error: type[Exception], named: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    with pytest.raises(error, match=named):
        client.forward_backward_custom(some_data(), lambda data, lps: broken(lps)).result()
    with pytest.raises(TrainError, match="no gradients"):
        client.optim_step(AdamParams()).result()


def test_a_custom_loss_without_weights_reaches_every_position(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    bare = [Datum(d.model_input, {"target_tokens": d.loss_fn_inputs["target_tokens"]}) for d in some_data()]
    client = make_client(backend, qwen3, tmp_path)
    out = client.forward_backward_custom(
        bare,
        lambda data, lps: CustomLoss(
            loss=1.0, gradients=[np.ones_like(lp) for lp in lps], metrics={"x:mean": 2.0}
        ),
    ).result()
    assert all((lp < 0).all() for lp in out.logprobs)
    assert out.metrics["x:mean"] == 2
    assert client.optim_step(AdamParams()).result().metrics["unclipped_grad_l2:mean"] > 0


def test_an_error_of_the_callers_loss_comes_out_of_the_handle(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    def fails(data: Any, logprobs: Any) -> CustomLoss:
        raise ZeroDivisionError("mine")

    client = make_client(backend, qwen3, tmp_path)
    with pytest.raises(ZeroDivisionError, match="mine"):
        client.forward_backward_custom(some_data(), fails).result()
    assert client.forward_backward(some_data()).result().metrics["loss:sum"] > 0


# --- bad data ----------------------------------------------------------------------------------------------


def bad(tokens: Sequence[int], **inputs: Any) -> Datum:
    return Datum(ModelInput.from_ints(tokens), {name: TensorData.of(value) for name, value in inputs.items()})


@pytest.mark.parametrize(
    ("datum", "error", "named"),
    [
        (bad([5] * 65, target_tokens=[5] * 65, weights=[1.0] * 65), ConfigError, r"data\[1\].*65 tokens.*64"),
        (bad([5, 320], target_tokens=[5, 5], weights=[1.0, 1.0]), DataError, r"data\[1\].*id 320"),
        (bad([5, 6], target_tokens=[5, -2], weights=[1.0, 1.0]), DataError, r"target_tokens has id -2"),
        (bad([5, 6], target_tokens=[5, 5]), DataError, r"data\[1\].*'weights'"),
        (bad([5, 6], target_tokens=[[5, 5], [6, 6]], weights=[1.0, 1.0]), DataError, "one weight per target"),
        (
            bad([5, 6], target_tokens=np.ones((2, 2, 2), int), weights=[1.0, 1.0]),
            DataError,
            r"\(N,\) or \(N, K\)",
        ),
        (bad([], target_tokens=np.ones(0, int), weights=np.ones(0)), DataError, "empty example"),
    ],
)
def test_a_datum_that_cannot_be_used_is_named_before_anything_runs(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, datum: Datum, error: type[Exception], named: str
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    with pytest.raises(error, match=named):
        client.forward_backward([some_data()[0], datum])


def test_no_data_and_unknown_settings_are_refused(backend: LocalBackend, qwen3: Path, tmp_path: Path) -> None:
    client = make_client(backend, qwen3, tmp_path)
    with pytest.raises(ConfigError, match="no data"):
        client.forward([])
    with pytest.raises(ConfigError, match="cross_entropy has no setting beta"):
        client.forward(some_data(), "cross_entropy", {"beta": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        client.forward(some_data(), "crossentropy")


def test_a_loss_that_is_not_finite_names_the_datum_and_leaves_no_gradient(
    make_backend: Callable[..., LocalBackend], qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(make_backend(micro_batch_tokens=8), qwen3, tmp_path)
    data = some_data()
    weights = data[2].weights.copy()
    weights[-1] = np.inf
    data[2] = Datum(data[2].model_input, {**data[2].loss_fn_inputs, "weights": TensorData.of(weights)})
    with pytest.raises(TrainError, match=r"data\[2\].*inf"):
        client.forward_backward(data).result()
    with pytest.raises(TrainError, match="no gradients"):
        client.optim_step(AdamParams()).result()


def test_gradients_that_are_not_finite_change_no_weight(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    before = client.forward(some_data()).result()
    client.forward_backward(some_data()).result()
    next(iter(client._trainer.gradients._sums.values()))[0, 0] = float("nan")
    with pytest.raises(TrainError, match=r"lora_A\.weight is not finite"):
        client.optim_step(AdamParams()).result()
    assert client.forward(some_data()).result() == before


def test_running_out_of_memory_says_what_to_lower(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 1 TiB")

    client = make_client(backend, qwen3, tmp_path)
    monkeypatch.setattr(type(client._trainer.model), "hidden", too_much)
    with pytest.raises(TrainError, match="micro_batch_tokens"):
        client.forward(some_data()).result()


# --- the optimiser -----------------------------------------------------------------------------------------


def test_steps_equal_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator) for name, shape in (("a", (5, 3)), ("b", (7,)))}
    ours = {name: tensor.clone() for name, tensor in start.items()}
    theirs = [tensor.clone().requires_grad_() for tensor in start.values()]
    optimizer, plain = AdamW(ours), torch.optim.AdamW(theirs, lr=1.0)
    for step in range(20):
        params = AdamParams(
            learning_rate=0.01 * (step + 1),
            beta1=0.8,
            beta2=0.9,
            eps=1e-6,
            weight_decay=0.1,
            grad_clip_norm=2.0,
        )
        grads = [torch.randn(p.shape, generator=generator) for p in theirs]
        norm = optimizer.step(dict(zip(ours, [g.clone() for g in grads], strict=True)), params)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = grad
        group = plain.param_groups[0]
        group.update(lr=params.learning_rate, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
        expected = torch.nn.utils.clip_grad_norm_(theirs, 2.0)
        plain.step()
        assert norm == pytest.approx(expected.item(), rel=1e-6)
        for mine, other in zip(ours.values(), theirs, strict=True):
            torch.testing.assert_close(mine, other.detach(), atol=1e-6, rtol=1e-6)


def test_a_first_step_moves_by_the_learning_rate() -> None:
    weights = {"w": torch.tensor([1.0, -2.0, 0.5])}
    norm = AdamW(weights).step(
        {"w": torch.tensor([3.0, -4.0, 0.0])}, AdamParams(learning_rate=0.1, eps=1e-12)
    )
    assert norm == 5
    torch.testing.assert_close(weights["w"], torch.tensor([0.9, -1.9, 0.5]))


def test_a_learning_rate_of_zero_keeps_every_bit() -> None:
    values = torch.tensor([0.0, -0.0, 1e-40, 1.0, -3.5])
    weights = {"w": values.clone()}
    optimizer = AdamW(weights)
    for sign in (1.0, -1.0):
        optimizer.step({"w": torch.full((5,), sign)}, AdamParams(learning_rate=0.0, weight_decay=0.3))
        assert weights["w"].numpy().tobytes() == values.numpy().tobytes()
    assert optimizer.steps == 2
    assert optimizer.state()["w.exp_avg_sq"].all()


# --- bfloat16 and GPU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), None], ids=["adapter", "full"])
def test_bfloat16_keeps_float32_masters_and_follows_float32(
    backend: LocalBackend, qwen3: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    losses: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        client = make_client(backend, qwen3, tmp_path / dtype, lora=lora, dtype=dtype)
        losses[dtype] = []
        for _ in range(6):
            losses[dtype].append(client.forward_backward(some_data()).result().metrics["loss:sum"])
            client.optim_step(AdamParams(learning_rate=3e-3)).result()
        assert all(m.dtype == torch.float32 for m in client._trainer.weights.masters.values())
        ref = client.save_state("s").result()
        loaded = make_client(backend, qwen3, tmp_path / dtype, lora=lora, dtype=dtype)
        loaded.load_state(ref).result()
        assert loaded.forward(some_data()).result() == client.forward(some_data()).result()
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [LoraConfig(rank=4), None], ids=["adapter", "full"])
def test_a_gpu_follows_the_cpu(
    make_backend: Callable[..., LocalBackend],
    qwen3: Path,
    tmp_path: Path,
    lora: LoraConfig | None,
    dtype: str,
) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        client = make_client(make_backend(device=device), qwen3, tmp_path, lora=lora, dtype=dtype)
        found = []
        for _ in range(5):
            found.append(client.forward_backward(some_data()).result().metrics["loss:sum"])
            client.optim_step(AdamParams(learning_rate=3e-3)).result()
        losses.append(found)
        sampler = client.sampling_client().result()
        assert sampler.compute_logprobs(some_data()[0].model_input).result()[0] is None
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3 if dtype == "float32" else 0.03)


def test_a_batch_without_any_weighted_token_is_a_step_of_zero_gradient(
    backend: LocalBackend, qwen3: Path, tmp_path: Path
) -> None:
    client = make_client(backend, qwen3, tmp_path)
    tokens = [5, 6, 7]
    silent = Datum(
        ModelInput.from_ints(tokens),
        {"target_tokens": TensorData.of([6, 7, 8]), "weights": TensorData.of([0.0, 0.0, 0.0])},
    )
    client.forward_backward([silent]).result()
    assert client.optim_step(AdamParams(learning_rate=0.1)).result().metrics["unclipped_grad_l2:mean"] == 0.0
    with pytest.raises(TrainError, match="no gradients"):
        client.optim_step(AdamParams()).result()
