"""Distillation: advantages from a teacher, soft targets, mixtures of sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError
from crucible_train.distillation import (
    incorporate_teacher_kl,
    mixed_batch,
    soft_target_datum,
    soft_target_kl,
    source_counts,
)
from crucible_train.losses import cross_entropy, importance_sampling
from crucible_train.supervised import datum_from_model_input_weights
from crucible_train.types import Datum, ModelInput, TensorData


def rolled(logprobs: list[float], mask: list[float]) -> Datum:
    named = {"logprobs": logprobs, "mask": mask, "advantages": [0.0] * len(mask)}
    tensors = {name: TensorData.of(np.float32(values)) for name, values in named.items()}
    tensors["target_tokens"] = TensorData.of([0] * len(mask))
    return Datum(ModelInput.from_ints([0] * len(mask)), tensors)


def test_the_advantage_is_what_the_teacher_thinks_more_of_a_token() -> None:
    data = [rolled([0.0, -1.0, -2.0], [0, 1, 1]), rolled([-1.0], [1])]
    teacher = [np.float32([-9.0, -3.0, -1.0]), np.float32([-1.0])]
    found, metrics = incorporate_teacher_kl(data, teacher, coef=0.5, dataset_D=[4, 2])
    assert [d.loss_fn_inputs["advantages"].array.tolist() for d in found] == [[0.0, -1.0, 0.5], [0.0]]
    assert metrics == {
        "teacher_kl": pytest.approx(1 / 3),
        "teacher_kl/dataset_2": 0.0,
        "teacher_kl/dataset_4": 0.5,
    }


def test_a_student_that_equals_its_teacher_learns_nothing() -> None:
    data = [rolled([-1.0, -2.0], [1, 1])]
    found, metrics = incorporate_teacher_kl(data, [np.float32([-1.0, -2.0])])
    assert not found[0].loss_fn_inputs["advantages"].array.any()
    assert metrics["teacher_kl"] == 0


def test_on_average_the_gradient_is_that_of_the_reverse_divergence() -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    logits, teacher = rng.normal(size=5), np.log(rng.dirichlet(np.ones(5)))
    student = logits - np.log(np.exp(logits).sum())
    p = np.exp(student)
    expected = p * ((student - teacher) - np.sum(p * (student - teacher)))  # ∂KL(p‖teacher)/∂logits
    total = np.zeros(5)
    for token in range(5):
        data, _ = incorporate_teacher_kl([rolled([student[token]], [1])], [np.array([teacher[token]])])
        advantage = data[0].loss_fn_inputs["advantages"].array
        here = np.array([student[token]])
        slope = importance_sampling(here, here, advantage).gradient[0]
        total += p[token] * slope * ((np.arange(5) == token) - p)
    np.testing.assert_allclose(total, expected, atol=1e-6)


def test_one_data_set_is_named_per_datum() -> None:
    with pytest.raises(DataError, match="2 data sets for 1 datums"):
        incorporate_teacher_kl([rolled([-1.0], [1])], [np.zeros(1)], dataset_D=[0, 1])


def source(reduction: str = "mean") -> Datum:
    return datum_from_model_input_weights(
        ModelInput.from_ints([1, 2, 3, 4, 5]),
        [0, 0, 1, 1, 2],
        reduction=reduction,  # type: ignore[arg-type]
    )


likeliest = st.lists(st.tuples(st.integers(0, 50), st.floats(-9, 0)), min_size=1, max_size=6)


@given(st.lists(likeliest, min_size=4, max_size=4), st.integers(1, 8), st.sampled_from(["mean", "none"]))
def test_a_position_keeps_its_weight_whatever_the_teacher_says(
    teacher: list[list[tuple[int, float]]], n_targets: int, reduction: str
) -> None:
    before = source(reduction)
    found = soft_target_datum(before, [None, *teacher], n_targets)
    assert found.target_tokens.shape == found.weights.shape == (4, n_targets)
    np.testing.assert_allclose(found.weights.sum(axis=1), before.weights, rtol=1e-5)
    for place, given_here in enumerate(teacher):
        taken = [token for token, _ in given_here[:n_targets]]
        assert found.target_tokens[place, : len(taken)].tolist() == taken
        assert not found.weights[place, len(taken) :].any()


def test_the_loss_of_a_mean_stays_a_mean() -> None:
    teacher = [None, *[[(7, -0.5), (8, -1.5)]] * 4]
    found = soft_target_datum(source("mean"), teacher, 2)
    logprobs = np.full((4, 2), -3.0)
    assert cross_entropy(logprobs, found.weights).loss == pytest.approx(3.0)


def test_shares_by_hand() -> None:
    teacher = [None, None, [(7, np.log(0.6)), (8, np.log(0.2)), (9, np.log(0.1))], *[[(1, 0.0)]] * 2]
    found = soft_target_datum(source("none"), teacher, 2)
    np.testing.assert_allclose(found.weights, [[0, 0], [0.75, 0.25], [1, 0], [2, 0]], rtol=1e-6)
    assert found.target_tokens.tolist() == [[2, 2], [7, 8], [1, 1], [1, 1]]


def test_the_distance_by_hand() -> None:
    teacher = [None, None, [(7, np.log(0.6)), (8, np.log(0.2))], *[[(1, 0.0)]] * 2]
    found = soft_target_datum(source("none"), teacher, 2)  # weights 0, 1, 1, 2
    logprobs = np.log([[0.1, 0.1], [0.5, 0.25], [0.5, 0.1], [0.25, 0.1]])
    first = 0.75 * np.log(0.75 / 0.5)  # the second token has the share that the student gives it
    expected = (first + np.log(1 / 0.5) + 2 * np.log(1 / 0.25)) / 4
    assert soft_target_kl([logprobs], [found.weights]) == pytest.approx(expected, rel=1e-6)
    assert soft_target_kl([logprobs] * 2, [found.weights] * 2) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_distance_is_never_negative_and_none_from_a_teacher_that_is_the_student(
    seed: int, n_targets: int
) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    student, other = (np.log(rng.dirichlet(np.ones(6), size=4)) for _ in range(2))

    def distance(teacher: np.ndarray, count: int) -> float:
        ordered = [sorted(enumerate(row), key=lambda pair: -pair[1]) for row in teacher]
        datum = soft_target_datum(source(), [None, *ordered], count)
        taken = np.take_along_axis(student, datum.target_tokens, axis=1)
        return soft_target_kl([taken], [datum.weights])

    assert distance(other, n_targets) >= 0
    assert distance(student, 6) == pytest.approx(0, abs=1e-6)
    whole = distance(other, 6)  # the plain divergence, by weight of position
    weights = source().weights
    plain = np.sum(np.exp(other) * (other - student), axis=1)
    assert whole == pytest.approx(float(np.sum(weights * plain) / weights.sum()), rel=1e-4, abs=1e-6)


def test_a_distance_without_weights_is_none_and_other_shapes_are_named() -> None:
    assert np.isnan(soft_target_kl([np.zeros((2, 3))], [np.zeros((2, 3))]))
    with pytest.raises(DataError, match=r"weights of shape \(2, 3\) for logprobs of shape \(2, 2\)"):
        soft_target_kl([np.zeros((2, 2))], [np.zeros((2, 3))])


def test_a_teacher_that_is_silent_where_it_matters_is_named() -> None:
    one = [(1, 0.0)]
    with pytest.raises(DataError, match="says nothing about token 2"):
        soft_target_datum(source(), [None, one, None, one, one])
    with pytest.raises(DataError, match="4 positions of the teacher"):
        soft_target_datum(source(), [one] * 4)
    with pytest.raises(ConfigError, match="n_targets = 0"):
        soft_target_datum(source(), [None, *[one] * 4], 0)


@given(st.lists(st.floats(0.05, 5), min_size=1, max_size=4), st.integers(20, 64))
def test_the_rows_of_a_batch_are_all_given_out(weights: list[float], size: int) -> None:
    try:
        counts = source_counts(weights, size)
    except ConfigError:  # rounding left nothing for the last
        return
    assert sum(counts) == size
    assert min(counts) >= 1
    for weight, count in zip(weights[:-1], counts, strict=False):
        assert abs(count - weight / sum(weights) * size) <= 1


def test_mixtures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="a positive number per source"):
        source_counts([1, 0], 4)
    with pytest.raises(ConfigError, match="leaves 0 rows for the last of 3 sources"):
        source_counts([1, 1, 1], 2)
    with pytest.raises(DataError, match="1 batches for 2 sources"):
        mixed_batch([[1]], [1, 1])
