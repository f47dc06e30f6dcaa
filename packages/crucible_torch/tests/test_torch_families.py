"""Common beginnings: who shares one, how it is laid out, and that nothing but the work is less for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crucible_testing.contracts.training import make_datum
from crucible_torch import LocalBackend
from crucible_torch.attention import PackedPlan, attend
from crucible_torch.families import Family, find_families
from crucible_torch.packing import Branch, Run, micro_batches, read_examples
from crucible_train.ports import CustomLoss, TrainingSpec
from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

PROMPTS = [list(range(10 * n, 10 * n + length)) for n, length in enumerate((40, 20, 16, 5))]
ENDS = st.lists(st.integers(300, 305), min_size=1, max_size=30)
SEQUENCES = st.lists(st.tuples(st.sampled_from(PROMPTS), ENDS), min_size=1, max_size=14)


def arrays(made: list[tuple[list[int], list[int]]]) -> list[NDArray[np.int64]]:
    return [np.array(prompt + end, dtype=np.int64) for prompt, end in made]


@settings(max_examples=200)
@given(SEQUENCES, st.integers(1, 200))
@example([(PROMPTS[0], [300]), (PROMPTS[0], [300])], 200)
def test_families_hold_every_sequence_once_and_share_what_is_equal(
    made: list[tuple[list[int], list[int]]], budget: int
) -> None:
    sequences = arrays(made)
    lengths = [len(tokens) for tokens in sequences]
    families = find_families(sequences, budget)
    assert sorted(member for family in families for member in family.members) == list(range(len(made)))
    for family in families:
        beginnings = {tuple(sequences[member][: family.shared].tolist()) for member in family.members}
        assert len(beginnings) == 1
        assert all(lengths[member] > family.shared for member in family.members)
        if len(family.members) > 1:
            assert family.shared >= 16
            assert family.tokens(lengths) <= budget
            assert 8 * (len(family.members) - 1) * family.shared >= sum(lengths[m] for m in family.members)
        else:
            assert family.shared == 0


def test_members_of_a_group_share_their_prompt_and_strangers_nothing() -> None:
    group = [[*PROMPTS[0], 300 + n, 301] for n in range(4)]
    other = [[*PROMPTS[1], 300 + n, 301] for n in range(2)]
    sequences = [np.array(tokens) for tokens in (group[0], other[0], *group[1:], [7, 8, 9], other[1])]
    assert find_families(sequences, 1000) == [
        Family(members=(0, 2, 3, 4), shared=40),
        Family(members=(1, 6), shared=20),
        Family(members=(5,)),
    ]


def test_a_header_that_everybody_has_is_not_worth_sharing() -> None:
    header = list(range(16))
    sequences = [np.array([*header, *range(20 * n + 100, 20 * n + 400)]) for n in range(5)]
    assert all(family.shared == 0 for family in find_families(sequences, 10_000))


@settings(max_examples=80)
@given(SEQUENCES, st.integers(1, 150))
def test_every_example_is_found_in_its_micro_batch_with_its_positions(
    made: list[tuple[list[int], list[int]]], budget: int
) -> None:
    data = [make_datum([*prompt, *end, 0], prompt=1) for prompt, end in made]
    examples = read_examples(data, max_positions=None, vocab_size=1000)
    batches = micro_batches(examples, budget)
    assert sorted(e.index for batch in batches for e in batch.examples) == list(range(len(data)))
    for batch in batches:
        assert len(batch.tokens) <= budget or len(batch.examples) == 1
        parts = [*batch.runs, *batch.branches]
        assert len(batch.tokens) == len(batch.positions) == sum(part.count * part.length for part in parts)
        for one, spots in zip(batch.examples, batch.spots, strict=True):
            assert batch.tokens[spots].tolist() == one.tokens.tolist()
            assert batch.positions[spots].tolist() == list(range(one.length))
        assert set(np.concatenate(batch.spots)) == set(range(len(batch.tokens)))


@pytest.mark.parametrize("window", [None, 2, 6])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_branch_sees_its_beginning_and_itself_alone(window: int | None, key_heads: int) -> None:
    """Two beginnings of 5 tokens; the second goes on with two branches of 3, the first with one of 2."""
    generator = torch.Generator().manual_seed(6)
    plan = PackedPlan((Run(0, 2, 5),), (Branch(0, 1, 2, 3), Branch(0, 0, 1, 2)))
    streams = [
        torch.randn(1, n, 18, 8, generator=generator, dtype=torch.float64) for n in (4, key_heads, key_heads)
    ]
    for stream in streams:
        stream.requires_grad_()
    paths = [[*range(5, 10), 10, 11, 12], [*range(5, 10), 13, 14, 15], [*range(5), 16, 17]]
    pull = torch.randn(18, 4, 8, generator=generator, dtype=torch.float64)
    found = attend(None, *streams, None, scaling=0.3, sliding_window=window, crucible_plan=plan)[0][0]
    grads = torch.autograd.grad((found * pull).sum(), streams)

    expected = torch.zeros_like(pull)
    for path in paths:
        q, k, v = (stream[0][:, path] for stream in streams)
        k, v = (t.repeat_interleave(4 // key_heads, 0) for t in (k, v))
        back = torch.arange(len(path))[:, None] - torch.arange(len(path))
        allowed = (back >= 0) & (back < (window or 99))
        scores = (q @ k.transpose(1, 2) * 0.3).masked_fill(~allowed, float("-inf"))
        new = [place for place, token in enumerate(path) if place >= 5 or path != paths[1]]
        expected = expected.index_put(
            (torch.tensor(path)[new],), (scores.softmax(-1) @ v).transpose(0, 1)[new]
        )
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad((expected * pull).sum(), streams)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other)


def grouped(seed: int = 3) -> list[Datum]:
    """Two groups of three answers to one prompt each, one of another prompt, one answer given twice."""
    rng = np.random.Generator(np.random.PCG64(seed))
    data = []
    for length, answers in ((24, (5, 9, 5)), (18, (7, 1, 12)), (20, (6,))):
        prompt = rng.integers(3, 300, length).tolist()
        for size in answers:
            tokens = [*prompt, *rng.integers(3, 300, size).tolist()]
            mask = (np.arange(len(tokens) - 1) >= length - 1).astype(np.float32)
            inputs = {
                "target_tokens": TensorData.of(tokens[1:]),
                "logprobs": TensorData.of(-6 * mask, dtype="float32"),
                "advantages": TensorData.of(float(rng.normal()) * mask, dtype="float32"),
                "weights": TensorData.of(mask, dtype="float32"),
            }
            data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
    return [*data, data[0]]


def squares(data: Any, logprobs: Any) -> CustomLoss:
    value = float(sum((lp.astype(np.float64) ** 2).sum() for lp in logprobs))
    grads = [2 * lp for lp in logprobs]
    return CustomLoss(loss=value, gradients=grads, metrics={})


CALLS: dict[str, Callable[[Any, list[Datum]], Any]] = {
    "cross_entropy": lambda client, data: client.forward_backward(
        [Datum(d.model_input, {k: d.loss_fn_inputs[k] for k in ("target_tokens", "weights")}) for d in data]
    ),
    "ppo": lambda client, data: client.forward_backward(
        [Datum(d.model_input, {k: v for k, v in d.loss_fn_inputs.items() if k != "weights"}) for d in data],
        "ppo",
    ),
    "custom": lambda client, data: client.forward_backward_custom(data, squares),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("lora", [LoraConfig(rank=4), None], ids=["lora", "full"])
def test_shared_beginnings_change_no_loss_no_log_probability_and_no_step(
    call: str,
    lora: LoraConfig | None,
    make_backend: Callable[..., LocalBackend],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    found = []
    for name, budget in (("qwen3", 4096), ("qwen3", 60), ("mistral", 4096)):
        for share in (True, False):
            backend = make_backend(share_prefixes=share, micro_batch_tokens=budget)
            folder = tmp_path / f"{name}-{budget}-{share}"
            spec = TrainingSpec(base_model=str(models[name]), seed=1, checkpoint_dir=folder, lora=lora)
            client = asyncio.run(backend.create_training_client(spec))
            outputs = []
            for _ in range(3):
                outputs.append(CALLS[call](client, grouped()).result())
                outputs[-1].metrics["norm"] = (
                    client.optim_step(AdamParams(learning_rate=1e-3))
                    .result()
                    .metrics["unclipped_grad_l2:mean"]
                )
            found.append(outputs)
        shared, apart = found[-2:]
        for one, other in zip(shared, apart, strict=True):
            assert one.metrics == pytest.approx(other.metrics, rel=2e-5)
            for lp, same in zip(one.logprobs, other.logprobs, strict=True):
                np.testing.assert_allclose(lp, same, atol=2e-5)
    assert found[0][0].metrics["loss:sum"] != found[0][2].metrics["loss:sum"]


def test_a_group_costs_one_prompt(backend: LocalBackend, models: dict[str, Path]) -> None:
    examples = read_examples(grouped(), max_positions=None, vocab_size=320)
    (batch,) = micro_batches(examples, 4096)
    assert sum(e.length for e in examples) == 212
    assert len(batch.tokens) == 212 - 3 * 24 - 2 * 17
