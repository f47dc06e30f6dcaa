"""Preferences: recorded DPO values, slopes, ties, pairs, positions, judging."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.preference import (
    Comparison,
    ComparisonRenderer,
    DpoSettings,
    LabeledComparison,
    balance_positions,
    chosen_and_rejected,
    comparison_from_dict,
    comparison_to_dict,
    dpo,
    dpo_loss,
    interleaved,
    pair_datums,
    sequence_logprobs,
    with_both_orders,
)
from crucible_train.renderers import Message, get_renderer

Golden = Callable[[str], dict[str, Any]]


def said(role: str, text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),)


def comparison(question: str = "Which?", a: str = "this", b: str = "that one") -> Comparison:
    return Comparison(
        prompt_conversation=said("user", question),
        completion_a=said("assistant", a),
        completion_b=said("assistant", b),
    )


def labeled(label: Any, question: str = "Which?") -> LabeledComparison:
    return LabeledComparison(comparison=comparison(question), label=label)


def row(**changes: Any) -> dict[str, Any]:
    return {**comparison_to_dict(labeled("A")), **changes}


# The loss


def test_all_9_recorded_values_metrics_and_gradients_are_equal(golden: Golden) -> None:
    cases = golden("dpo")["cases"]
    for case in cases:
        arrays = [np.float64(case[k]) for k in ("chosen", "rejected", "ref_chosen", "ref_rejected")]
        found = dpo(*arrays, DpoSettings(beta=case["beta"]))
        # upstream computes in float32: a difference of numbers near 100 is exact to 1e-5
        near: dict[str, Any] = {"rel": 2e-5, "abs": 2e-5 * max(1.0, case["beta"])}
        assert found.loss == pytest.approx(case["loss"], **near)
        assert dict(found.metrics) == pytest.approx(case["metrics"], **near)
        np.testing.assert_allclose(found.gradient_chosen, case["grad_chosen"], rtol=2e-4, atol=1e-9)
        np.testing.assert_allclose(found.gradient_rejected, case["grad_rejected"], rtol=2e-4, atol=1e-9)
    assert len(cases) == 9


def test_at_the_reference_the_loss_is_ln_2_and_no_pair_counts_as_won() -> None:
    same = np.array([-3.0, -4.0])
    found = dpo(same, same - 1, same, same - 1, DpoSettings(beta=0.7))
    assert found.loss == pytest.approx(math.log(2))
    assert found.metrics["accuracy"] == 0
    assert found.gradient_chosen.tolist() == pytest.approx([-0.7 / 4, -0.7 / 4])


def test_hand_worked_smoothing_and_ipo() -> None:
    won, lost, zero = np.array([2.0]), np.array([1.0]), np.array([0.0])
    smooth = dpo(won, lost, zero, zero, DpoSettings(beta=1.0, label_smoothing=0.1))
    sigma = 1 / (1 + math.exp(-1.0))
    assert smooth.loss == pytest.approx(-0.9 * math.log(sigma) - 0.1 * math.log(1 - sigma))
    assert smooth.gradient_chosen[0] == pytest.approx(-0.9 * (1 - sigma) + 0.1 * sigma)
    ipo = dpo(won, lost, zero, zero, DpoSettings(beta=0.1, loss="ipo"))
    assert ipo.loss == pytest.approx((1 - 5) ** 2)
    assert ipo.gradient_chosen[0] == pytest.approx(2 * (1 - 5))


def test_far_from_the_reference_the_loss_is_finite_on_both_sides() -> None:
    far, zero = np.array([5000.0]), np.zeros(1)
    for smoothing in (0.0, 0.1):
        settings = DpoSettings(beta=5.0, label_smoothing=smoothing)
        for sign in (1, -1):
            found = dpo(sign * far, zero, zero, zero, settings)
            assert math.isfinite(found.loss)
            assert np.isfinite(found.gradient_chosen).all()
    assert dpo(-far, zero, zero, zero, DpoSettings(beta=5.0)).loss == pytest.approx(25000)


numbers = st.floats(-3, 3)


@given(
    st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5),
    st.sampled_from(
        [DpoSettings(beta=0.5), DpoSettings(beta=2, label_smoothing=0.2), DpoSettings(loss="ipo")]
    ),
    st.integers(0, 4),
)
def test_the_gradient_is_the_slope_and_the_two_sides_mirror_each_other(
    rows: list[tuple[float, ...]], settings: DpoSettings, place: int
) -> None:
    won, lost, ref_won, ref_lost = (np.array(column) for column in zip(*rows, strict=True))
    found = dpo(won, lost, ref_won, ref_lost, settings)
    step = np.zeros_like(won)
    step[place % len(won)] = 1e-5
    up, down = (dpo(won + s, lost, ref_won, ref_lost, settings).loss for s in (step, -step))
    assert found.gradient_chosen[place % len(won)] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)
    np.testing.assert_array_equal(found.gradient_rejected, -found.gradient_chosen)
    mirrored = dpo(lost, won, ref_lost, ref_won, settings)
    assert mirrored.metrics["margin"] == pytest.approx(-found.metrics["margin"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"beta": 0.0}, "dpo_beta"),
        ({"beta": math.inf}, "dpo_beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss": "hinge"}, "'sigmoid' or 'ipo'"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "ipo has no label smoothing"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DpoSettings(**settings)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        dpo(np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2))
    with pytest.raises(DataError, match="one pair at least"):
        dpo(*[np.zeros(0)] * 4)


# As a custom loss


def test_the_custom_loss_is_the_slope_for_every_token(mini: FileTokenizer) -> None:
    renderer = get_renderer("role_colon", mini)
    data = interleaved(pair_datums(comparison(q), renderer) for q in ("One?", "Two of them?"))
    rng = np.random.Generator(np.random.PCG64(3))
    logprobs = [-rng.random(len(datum.weights)) * 3 for datum in data]
    reference = sequence_logprobs(data, [lp - 0.1 for lp in logprobs]).reshape(-1, 2)
    loss = dpo_loss(reference, DpoSettings(beta=0.5))
    found = loss(data, logprobs)  # type: ignore[arg-type]
    assert found.metrics["num_pairs"] == 2
    for i, (datum, gradient) in enumerate(zip(data, found.gradients, strict=True)):
        assert not gradient[datum.weights == 0].any()
        place = int(np.flatnonzero(datum.weights)[0])
        nudged = [lp.copy() for lp in logprobs]
        nudged[i][place] += 1e-5
        up = loss(data, nudged).loss  # type: ignore[arg-type]
        assert gradient[place] == pytest.approx((up - found.loss) / 1e-5, rel=1e-3)


def test_data_that_are_not_the_pairs_of_the_reference_are_refused(mini: FileTokenizer) -> None:
    pair = pair_datums(comparison(), get_renderer("role_colon", mini))
    zeros = [np.zeros(len(datum.weights), np.float32) for datum in interleaved([pair])]
    with pytest.raises(DataError, match="chosen and rejected in turn"):
        dpo_loss(np.zeros((2, 2)))(interleaved([pair]), zeros)
    with pytest.raises(DataError, match="chosen and rejected in turn"):
        dpo_loss(np.zeros((0, 2)))([pair.chosen], zeros[:1])
    with pytest.raises(DataError, match="do not fit"):
        sequence_logprobs(interleaved([pair]), zeros[:1])


# Pairs


def test_a_pair_shares_its_prompt_and_trains_the_completions_alone(mini: FileTokenizer) -> None:
    renderer = get_renderer("role_colon", mini)
    pair = pair_datums(comparison(), renderer)
    prompt = renderer.build_generation_prompt(comparison().prompt_conversation).to_ints()
    for datum, text in ((pair.chosen, "this"), (pair.rejected, "that one")):
        assert datum.model_input.to_ints()[: len(prompt)] == prompt
        trained = datum.target_tokens[datum.weights > 0].tolist()
        assert mini.decode(trained).strip().startswith(text)
        assert set(datum.weights.tolist()) == {0.0, 1.0}  # sums over tokens, not means


def test_a_pair_whose_completion_is_cut_away_is_refused_whole(mini: FileTokenizer) -> None:
    renderer = get_renderer("role_colon", mini)
    prompt = renderer.build_generation_prompt(comparison().prompt_conversation).length
    with pytest.raises(DataError, match="no token of the chosen completion is left"):
        pair_datums(comparison(), renderer, max_length=prompt)


def test_the_better_completion_comes_first_and_ties_win_nothing() -> None:
    rows = [labeled("A"), labeled("Tie"), labeled("B")]
    assert chosen_and_rejected(rows) == [comparison(), comparison().swap()]
    with pytest.raises(DataError, match=r"comparisons\[1\]: a tie"):
        chosen_and_rejected(rows, ties="refuse")
    with pytest.raises(ConfigError, match="ties = 'b'"):
        chosen_and_rejected(rows, ties="b")  # type: ignore[arg-type]


def test_swapping_twice_changes_nothing_and_a_tie_stays_one() -> None:
    for label in ("A", "B", "Tie"):
        assert labeled(label).swap().swap() == labeled(label)
    assert labeled("Tie").swap().label == "Tie"
    assert labeled("A").swap().label == "B"
    assert [one.label for one in with_both_orders([labeled("A"), labeled("Tie")])] == ["A", "B", "Tie", "Tie"]


# Positions


def test_positions_depend_on_the_seed_and_the_content_alone() -> None:
    rows = [labeled("A", f"question {i}") for i in range(400)]
    first = balance_positions(rows, 0)
    assert first == balance_positions(rows, 0)
    assert first[::-1] == balance_positions(rows[::-1], 0)
    assert first[:10] == balance_positions(rows[:10], 0)
    assert first != balance_positions(rows, 1)
    swapped = sum(one.label == "B" for one in first)
    assert 150 < swapped < 250
    for before, after in zip(rows, first, strict=True):
        assert after in (before, before.swap())


# Rows


def test_a_row_is_read_and_written_back() -> None:
    for label in ("A", "B", "Tie"):
        assert comparison_from_dict(comparison_to_dict(labeled(label))) == labeled(label)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (row(label="C"), r"file.jsonl:3.label: label 'C'"),
        (row(lable="A"), "file.jsonl:3: .*lable"),
        ({"comparison": {}}, r"missing \['label'\]"),
        (row(comparison=[]), "file.jsonl:3.comparison: no object"),
        (row(comparison={**row()["comparison"], "completion_A": []}), "comparison.completion_A: no list"),
        (row(comparison={"completion_A": [], "completion_C": []}), "did you mean 'completion_B'"),
    ],
)
def test_a_bad_row_is_named_with_its_place(broken: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        comparison_from_dict(broken, where="file.jsonl:3")


def test_a_comparison_lacks_nothing() -> None:
    with pytest.raises(DataError, match="completion_b has no message"):
        Comparison(
            prompt_conversation=said("user", "?"), completion_a=said("assistant", "a"), completion_b=()
        )
    with pytest.raises(DataError, match="label 'C'"):
        labeled("C")


# Judging


@pytest.mark.parametrize("label", ["A", "B", "Tie"])
def test_a_judge_learns_the_label_and_nothing_else(mini: FileTokenizer, label: str) -> None:
    judge = ComparisonRenderer(get_renderer("role_colon", mini))
    example = judge.build_supervised_example(labeled(label))
    prompt = judge.build_generation_prompt(comparison()).to_ints()
    tokens = example.model_input.to_ints()
    assert tokens[: len(prompt)] == prompt
    assert example.weights.sum() == 1
    assert example.weights[-1] == 1
    text = mini.decode(prompt)
    places = [
        text.index(part)
        for part in (
            "Which?",
            "==== Completion A ====",
            "this",
            "==== Completion B ====",
            "that one",
            "==== Preference ====",
        )
    ]
    assert places == sorted(places)


def test_labels_that_begin_alike_are_refused(mini: FileTokenizer) -> None:
    class Spelling(FileTokenizer):
        def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
            mark = [1] if text.strip() in ("A", "B", "Tie") else []
            return [*mark, *super().encode(text, allow_special=allow_special)]

    with pytest.raises(ConfigError, match="begin differently"):
        ComparisonRenderer(get_renderer("role_colon", Spelling(mini.folder)))
