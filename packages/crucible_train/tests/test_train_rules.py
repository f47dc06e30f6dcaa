"""Schedules, rates, order, metrics, seeds and likelihoods: worked values, properties, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.hyperparameters import get_lora_param_count, get_lr, hidden_size, scaled_lr
from crucible_train.losses import cross_entropy
from crucible_train.metrics import SUPERVISED_METRICS, metric_spec
from crucible_train.schedules import lr_multiplier
from crucible_train.seeds import derived_seed, generator
from crucible_train.supervised import (
    SupervisedBatches,
    batch_indices,
    compute_bpb,
    compute_mean_nll,
    datum_from_model_input_weights,
    number_of_batches,
)
from crucible_train.types import EncodedTextChunk, ImageChunk, ModelInput

VECTORS = {
    "order": [2085199215, 1490439081, 1309600981],
    "rollout": [451294386, 3614518238, 68584591],
    "seed": 8516537274467473851,
}
schedules = st.sampled_from(["linear", "cosine", "constant"])

# Schedules


def test_warm_up_rises_linearly_and_the_schedule_takes_the_steps_that_are_left() -> None:
    found = [lr_multiplier("linear", step, 6, warmup_steps=2) for step in range(7)]
    assert found == [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert lr_multiplier("cosine", 4, 6, warmup_steps=2) == pytest.approx(0.5)


@given(schedules, st.integers(0, 500), st.integers(1, 200), st.integers(0, 199))
def test_a_multiplier_is_between_zero_and_one(name: str, step: int, total: int, warmup: int) -> None:
    value = lr_multiplier(name, step, total, warmup_steps=min(warmup, total - 1))  # type: ignore[arg-type]
    assert 0 <= value <= 1


@given(schedules, st.integers(1, 100))
def test_the_first_step_without_warm_up_has_the_whole_rate(name: str, total: int) -> None:
    assert lr_multiplier(name, 0, total) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("linaer", 0, 1, 0), "no schedule is called 'linaer'; did you mean 'linear'?"),
        (("zzz", 0, 1, 0), "valid: linear, cosine, constant"),
        (("linear", 0, 0, 0), "total_steps = 0"),
        (("linear", -1, 1, 0), "count steps from 0"),
        (("linear", 0, 5, 5), "5 warm-up steps of 5; give 0 to 4"),
        (("linear", 0, 5, -1), "-1 warm-up steps of 5"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments: tuple[str, int, int, int], said: str) -> None:
    name, step, total, warmup = arguments
    with pytest.raises(ConfigError) as caught:
        lr_multiplier(name, step, total, warmup_steps=warmup)  # type: ignore[arg-type]
    assert said in str(caught.value)


# Rates


def test_the_rate_rule_by_hand() -> None:
    assert scaled_lr(2000, "llama") == pytest.approx(5e-4)
    assert scaled_lr(2000, "qwen", is_lora=False) == pytest.approx(5e-5)
    assert scaled_lr(8000, "llama") == pytest.approx(5e-4 * 0.25**0.781)
    assert get_lr("META-LLAMA/llama-3.1-8b") == pytest.approx(2.856e-4, rel=1e-3)


def test_models_without_a_rule_and_unknown_models_are_told_apart() -> None:
    with pytest.raises(ConfigError, match="no learning-rate rule is calibrated for 'openai/gpt-oss-20b'"):
        get_lr("openai/gpt-oss-20b")
    with pytest.raises(ConfigError, match=r"did you mean 'Qwen/Qwen3-8B'?"):
        hidden_size("Qwen/Qwen3-8")
    with pytest.raises(ConfigError, match="give the hidden size or the learning rate yourself"):
        get_lr("someone/nothing-like-it-at-all")
    with pytest.raises(ConfigError, match="hidden_size = 0"):
        scaled_lr(0, "qwen")
    with pytest.raises(ConfigError, match="no learning-rate rule for the family 'gpt'"):
        scaled_lr(10, "gpt")  # type: ignore[arg-type]


@given(st.integers(1, 256))
def test_adapter_size_grows_with_rank_and_is_the_sum_of_its_parts(rank: int) -> None:
    model = "Qwen/Qwen3-8B"
    whole = get_lora_param_count(model, rank)
    mlp = get_lora_param_count(model, rank, train_attn=False, train_unembed=False)
    attn = get_lora_param_count(model, rank, train_mlp=False, train_unembed=False)
    unembed = get_lora_param_count(model, rank, train_mlp=False, train_attn=False)
    assert whole == mlp + attn + unembed == rank * get_lora_param_count(model, 1)


def test_an_adapter_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no part of the model is trained"):
        get_lora_param_count("Qwen/Qwen3-8B", train_mlp=False, train_attn=False, train_unembed=False)
    with pytest.raises(ConfigError, match="lora_rank = 0"):
        get_lora_param_count("Qwen/Qwen3-8B", 0)


# Order


def test_fewer_rows_than_a_batch_names_both_numbers() -> None:
    with pytest.raises(
        ConfigError, match="a batch of 8 examples from 5 examples; give a batch_size of at most 5"
    ):
        SupervisedBatches(rows=5, batch_size=8)
    assert SupervisedBatches(rows=5, batch_size=8, drop_last=False).per_epoch == 1
    with pytest.raises(ConfigError, match="give some examples"):
        number_of_batches(0, 8, drop_last=False)
    with pytest.raises(ConfigError, match="batch_size = 0"):
        number_of_batches(5, 0)
    with pytest.raises(ConfigError, match="epochs = 0"):
        SupervisedBatches(rows=5, batch_size=1, epochs=0)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_an_epoch_takes_no_row_twice_and_leaves_out_only_the_last_partial_batch(
    rows: int, size: int, epoch: int, drop_last: bool
) -> None:
    if drop_last and rows < size:
        return
    batches = batch_indices(rows, size, epoch, drop_last=drop_last)
    taken = np.concatenate(batches).tolist()
    assert len(set(taken)) == len(taken)
    assert len(taken) == (rows // size * size if drop_last else rows)
    assert all(len(batch) == size for batch in batches[:-1])
    again = batch_indices(rows, size, epoch, drop_last=drop_last)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_a_step_has_its_epoch_and_batch_and_epochs_differ() -> None:
    plan = SupervisedBatches(rows=10, batch_size=3, epochs=2)
    assert (plan.per_epoch, plan.total) == (3, 6)
    assert [plan.position(step) for step in (0, 2, 3, 5)] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    assert plan.epoch(0)[0].tolist() != plan.epoch(1)[0].tolist()
    still = SupervisedBatches(rows=10, batch_size=3, epochs=2, shuffle=False)
    assert still.epoch(1)[0].tolist() == [0, 1, 2]


# Metrics


def test_every_metric_has_a_unit_and_what_it_measures_a_direction() -> None:
    assert all(spec.unit and spec.meaning for spec in SUPERVISED_METRICS.values())
    assert metric_spec("test/nll").direction == "lower"
    assert not metric_spec("time/step").deterministic
    with pytest.raises(ConfigError, match=r"did you mean 'train_mean_nll'?"):
        metric_spec("train_mean_nl")
    with pytest.raises(ConfigError, match="valid: epoch, "):
        metric_spec("zzzzzz")


# Seeds


def test_generators_have_their_published_vectors() -> None:
    assert generator(0, "order").integers(0, 2**32, 3).tolist() == VECTORS["order"]
    assert generator(7, "rollout", 5).integers(0, 2**32, 3).tolist() == VECTORS["rollout"]
    assert derived_seed(7, "rollout", 5) == VECTORS["seed"]


@given(st.integers(0, 2**40), st.text(min_size=1, max_size=8), st.integers(0, 1000))
def test_a_generator_repeats_and_another_purpose_step_or_seed_is_another(
    seed: int, purpose: str, step: int
) -> None:
    first = generator(seed, purpose, step).random(4).tolist()
    assert first == generator(seed, purpose, step).random(4).tolist()
    assert first != generator(seed, purpose + "x", step).random(4).tolist()
    assert first != generator(seed, purpose, step + 1).random(4).tolist()
    assert first != generator(seed + 1, purpose, step).random(4).tolist()
    assert 0 <= derived_seed(seed, purpose, step) < 2**63


@pytest.mark.parametrize(("seed", "purpose", "step"), [(-1, "x", 0), (0, "x", -1), (0, "", 0)])
def test_a_seed_below_zero_or_without_a_purpose_is_refused(seed: int, purpose: str, step: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        generator(seed, purpose, step)


# Likelihood and loss


def test_mean_nll_by_hand() -> None:
    logprobs = [np.float32([-1, -2]), np.float32([-4])]
    weights = [np.float32([0, 1]), np.float32([3])]
    assert compute_mean_nll(logprobs, weights) == pytest.approx((2 + 12) / 4)


def test_bits_per_byte_by_hand(mini: FileTokenizer) -> None:
    tokens = mini.encode("日本")
    assert len(tokens) == 6  # bytes of two characters: neighbours are decoded together
    logprobs = [np.full(7, -math.log(2), np.float32)]
    weights = [np.float32([0.5] * 7)]
    targets = [np.array([*tokens, 473])]  # the special token counts on neither side
    assert compute_bpb(logprobs, weights, targets, mini) == pytest.approx(1.0)


def test_arrays_of_other_shapes_are_refused(mini: FileTokenizer) -> None:
    one, two = [np.zeros(1, np.float32)], [np.zeros(2, np.float32)]
    with pytest.raises(DataError, match=r"likelihood.weights"):
        compute_mean_nll(one, two)
    with pytest.raises(DataError, match=r"likelihood.target_tokens"):
        compute_bpb(one, one, [np.zeros(2, np.int64)], mini)
    with pytest.raises(DataError, match=r"cross_entropy.weights"):
        cross_entropy(np.zeros(2), np.zeros(3))


floats = st.floats(-5, 0, allow_nan=False)


@given(st.lists(st.tuples(floats, st.floats(0, 3)), min_size=1, max_size=8))
def test_the_gradient_of_cross_entropy_is_its_slope(pairs: list[tuple[float, float]]) -> None:
    logprobs, weights = np.array(pairs).T
    found = cross_entropy(logprobs, weights)
    for i in range(len(pairs)):
        step = np.zeros(len(pairs))
        step[i] = 1e-3
        up, down = cross_entropy(logprobs + step, weights).loss, cross_entropy(logprobs - step, weights).loss
        assert (up - down) / 2e-3 == pytest.approx(found.gradient[i], abs=1e-6)


# Datums


def test_truncation_by_hand() -> None:
    image = ImageChunk(data=b"i", format="png", expected_tokens=4)
    model_input = ModelInput((EncodedTextChunk((1, 2)), image, EncodedTextChunk((3, 4))))
    datum = datum_from_model_input_weights(model_input, np.arange(8))
    assert datum.target_tokens.tolist() == [2, 0, 0, 0, 0, 3, 4]
    assert datum.weights.tolist() == [1, 2, 3, 4, 5, 6, 7]
    cut = datum_from_model_input_weights(model_input, np.arange(8), max_length=5)
    assert cut.target_tokens.tolist() == [2]


def test_weights_of_another_length_and_unknown_reductions_are_refused() -> None:
    model_input = ModelInput.from_ints([1, 2, 3])
    with pytest.raises(DataError, match=r"weights of shape \(2,\) for 3 positions"):
        datum_from_model_input_weights(model_input, [1.0, 1.0])
    with pytest.raises(ConfigError, match=r"no reduction is called 'maen'; did you mean 'mean'?"):
        datum_from_model_input_weights(model_input, [1.0] * 3, reduction="maen")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="valid: 'none', 'mean'"):
        datum_from_model_input_weights(model_input, [1.0] * 3, reduction="xyz")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"1 of 3 tokens are left \(max_length 1\)"):
        datum_from_model_input_weights(model_input, [1.0] * 3, 1)
