"""Reinforcement learning: rewards, groups, joined turns, penalties, order, rollouts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError, ServiceError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.grading import Verdict
from crucible_train.losses import find_loss
from crucible_train.renderers import get_renderer
from crucible_train.rl import (
    ArithmeticDataset,
    Env,
    EnvGroupBuilder,
    ProblemEnv,
    ProblemGroup,
    RLDataset,
    StepResult,
    Trajectory,
    TrajectoryGroup,
    Transition,
    add_to_advantages,
    arithmetic_env,
    assemble_training_data,
    compute_advantages,
    discounted_future_sum,
    epoch_batch_index,
    final_integer,
    group_advantages,
    incorporate_kl_penalty,
    inputs_for_loss,
    interleaved_schedule,
    judged_only,
    kl_sample_train,
    log_ratios,
    post_kl,
    problem_reward,
    remove_constant_reward_groups,
    rollout,
    rollout_group,
    split_list,
    target_logprobs,
    trajectory_metrics,
    trajectory_to_data,
)
from crucible_train.types import (
    Datum,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    SampledSequence,
    StopCondition,
    TensorData,
)


def sampled(*tokens: int, logprob: float = -1.0) -> SampledSequence:
    return SampledSequence(tokens=tokens, logprobs=(logprob,) * len(tokens), stop_reason="stop")


def turn(observation: Sequence[int], action: SampledSequence, **changes: Any) -> Transition:
    return Transition(
        **{"observation": ModelInput.from_ints(observation), "action": action, "reward": 0.0, **changes}
    )


def group(*rewards: float | None, tags: Sequence[str] = ()) -> TrajectoryGroup:
    return TrajectoryGroup(
        trajectories=tuple(Trajectory(transitions=(turn([1], sampled(2), reward=r),)) for r in rewards),
        final_rewards=(0.0,) * len(rewards),
        metrics=({},) * len(rewards),
        tags=tuple(tags),
    )


# Rewards and advantages


@pytest.mark.parametrize(
    ("formatted", "correct", "reward"),
    [(True, True, 1.0), (True, False, 0.0), (False, True, 0.9), (False, False, -0.1)],
)
def test_the_reward_table(formatted: bool, correct: bool, reward: float) -> None:
    assert problem_reward(correct=correct, formatted=formatted) == pytest.approx(reward)


rewards = st.lists(st.floats(-3, 3, width=32), max_size=12)


@given(rewards)
def test_advantages_sum_to_zero_and_keep_the_differences(values: list[float]) -> None:
    found = group_advantages(values)
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(0, abs=1e-5)
    for a, b in zip(found, values, strict=True):
        assert a - found[0] == pytest.approx(b - values[0], abs=1e-5)


def test_the_rewards_of_turns_and_of_the_group_add_up() -> None:
    turns = (turn([1], sampled(2), reward=0.25), turn([1, 2], sampled(3), reward=0.5))
    both = TrajectoryGroup(
        trajectories=(Trajectory(transitions=turns), Trajectory(transitions=())),
        final_rewards=(1.0, -1.0),
        metrics=({}, {}),
    )
    assert both.total_rewards() == [1.75, -1.0]
    assert compute_advantages([both])[0].tolist() == [1.375, -1.375]


def test_a_group_has_one_of_each_per_trajectory() -> None:
    with pytest.raises(DataError, match="1 trajectories, 2 final rewards, 1 sets"):
        TrajectoryGroup(trajectories=(Trajectory(transitions=()),), final_rewards=(0.0, 1.0), metrics=({},))


def test_tags_stay_with_their_groups_when_constant_ones_are_removed() -> None:
    groups = [group(1, 1, tags=["easy"]), group(0, 1, tags=["hard"]), group(1, 0, 0, tags=["other"])]
    kept = remove_constant_reward_groups(groups)
    assert [g.tags for g in kept] == [("hard",), ("other",)]
    found = trajectory_metrics(kept)
    assert "env/easy/total_episodes" not in found
    assert found["env/hard/total_episodes"] == 2
    assert found["env/other/total_episodes"] == 3


def test_one_group_is_kept_where_none_has_two_rewards() -> None:
    assert remove_constant_reward_groups([group(1, 1), group(0, 0)]) == [group(1, 1)]
    assert remove_constant_reward_groups([]) == []


def test_what_could_not_be_judged_is_counted_and_never_worth_zero() -> None:
    groups = [group(1, None, 0), group(None), group(1, 0)]
    with pytest.raises(DataError, match="trajectory 1 could not be judged"):
        compute_advantages(groups)
    kept, left_out = judged_only(groups)
    assert left_out == 2
    assert [a.tolist() for a in compute_advantages(kept)] == [[0.5, -0.5], [0.5, -0.5]]
    found = trajectory_metrics(groups)
    assert found["env/all/cannot_judge"] == 2
    assert found["env/all/reward/total"] == 0.5
    assert found["env/all/total_episodes"] == 6
    assert "env/all/cannot_judge" not in trajectory_metrics(kept)


def test_where_nothing_could_be_judged_there_is_no_reward_to_report() -> None:
    found = trajectory_metrics([group(None, None)])
    assert (found["env/all/cannot_judge"], found["env/all/total_episodes"]) == (2, 2)
    assert not [name for name in found if "reward" in name or "by_group" in name]


@given(st.lists(st.floats(-2, 2), max_size=8), st.floats(0, 1))
def test_a_discounted_sum_is_the_sum_written_out(values: list[float], discount: float) -> None:
    found = discounted_future_sum(values, discount)
    for t in range(len(values)):
        later = sum(value * discount**k for k, value in enumerate(values[t:]))
        assert found[t] == pytest.approx(later, abs=1e-5)


def test_a_discount_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 ≤ discount ≤ 1"):
        discounted_future_sum([1.0], 1.5)


# Datums


turns_of_tokens = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.lists(st.integers(0, 9), max_size=3)),
    min_size=1,
    max_size=5,
)


@given(turns_of_tokens, st.sampled_from([-1.5, 0.5]))
def test_turns_that_go_on_become_one_datum_that_trains_the_actions(
    given_turns: list[tuple[list[int], list[int]]], advantage: float
) -> None:
    history: list[int] = []
    transitions = []
    expected: list[int] = []
    for observed, acted in given_turns:
        history = [*history, *observed]
        transitions.append(turn(history, sampled(*acted)))
        history = [*history, *acted]
        expected += acted
    if len(history) < 2:
        return
    (datum,) = trajectory_to_data(Trajectory(transitions=tuple(transitions)), advantage)
    mask = datum.loss_fn_inputs["mask"].array
    assert datum.model_input.to_ints() == history[:-1]
    assert datum.target_tokens.tolist() == history[1:]
    assert datum.target_tokens[mask > 0].tolist() == expected
    np.testing.assert_array_equal(datum.loss_fn_inputs["advantages"].array, np.float32(advantage) * mask)
    np.testing.assert_array_equal(datum.loss_fn_inputs["logprobs"].array, -mask)


@given(turns_of_tokens)
def test_turns_that_begin_anew_become_datums_of_their_own(
    given_turns: list[tuple[list[int], list[int]]],
) -> None:
    transitions = [turn([100 + i, *seen], sampled(*acted)) for i, (seen, acted) in enumerate(given_turns)]
    data = trajectory_to_data(Trajectory(transitions=tuple(transitions)), 1.0)
    assert len(data) == len(given_turns)
    for datum, (_, acted) in zip(data, given_turns, strict=True):
        mask = datum.loss_fn_inputs["mask"].array
        assert datum.target_tokens[mask > 0].tolist() == acted


def test_a_masked_turn_is_read_and_not_trained() -> None:
    turns = (turn([1, 2], sampled(3), masked=True), turn([1, 2, 3, 4], sampled(5)))
    (datum,) = trajectory_to_data(Trajectory(transitions=turns), 2.0)
    assert datum.loss_fn_inputs["mask"].array.tolist() == [0, 0, 0, 1]
    assert datum.loss_fn_inputs["advantages"].array.tolist() == [0, 0, 0, 2]
    assert datum.loss_fn_inputs["logprobs"].array.tolist() == [0, -1, 0, -1]


def test_an_image_after_which_nothing_is_sampled_goes() -> None:
    image = ImageChunk(data=b"i", format="png", expected_tokens=3)
    observation = ModelInput((EncodedTextChunk((1, 2, 3)), image))
    last = Transition(observation=observation, action=sampled(), reward=0.0)
    (datum,) = trajectory_to_data(Trajectory(transitions=(last,)), 1.0)
    assert datum.model_input.to_ints() == [1, 2]
    assert datum.target_tokens.tolist() == [2, 3]


def test_a_sampler_without_logprobs_is_named() -> None:
    action = SampledSequence(tokens=(3,), stop_reason="stop")
    with pytest.raises(ServiceError, match="no log-probabilities"):
        trajectory_to_data(Trajectory(transitions=(turn([1, 2], action),)), 1.0)


def test_advantages_that_do_not_fit_the_groups_are_refused() -> None:
    with pytest.raises(DataError, match="1 advantages for 2"):
        assemble_training_data([group(0, 1)], [[1.0]])
    with pytest.raises(DataError, match="0 advantages for 1"):
        assemble_training_data([group(0, 1)], [])


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo", "dro", "gspo"])
def test_each_loss_gets_what_it_reads_and_nothing_else(loss: str) -> None:
    (datum,) = trajectory_to_data(Trajectory(transitions=(turn([1, 2], sampled(3, 4)),)), 0.5)
    spec = find_loss(loss)
    ready = inputs_for_loss(datum, loss)
    assert set(ready.loss_fn_inputs) == {*spec.inputs, *spec.optional}
    found = spec.evaluate(
        ready.loss_fn_inputs["logprobs"].array, ready, {"beta": 1.0} if loss == "dro" else {}
    )
    assert found.gradient.tolist() == [0.0, -0.5, -0.5]


# Divergences


def rolled(logprobs: list[float], mask: list[float], **inputs: list[float]) -> Datum:
    named = {"logprobs": logprobs, "mask": mask, "advantages": [0.0] * len(mask), **inputs}
    tensors = {name: TensorData.of(np.float32(values)) for name, values in named.items()}
    tensors["target_tokens"] = TensorData.of([0] * len(mask))
    return Datum(ModelInput.from_ints([0] * len(mask)), tensors)


def test_a_penalty_by_hand() -> None:
    data = [rolled([0.0, -1.0], [0, 1]), rolled([-2.0], [1])]
    base = [np.float32([-9.0, -2.0]), np.float32([-2.0])]  # d = 1 and 0, mean ½
    found, metrics = incorporate_kl_penalty(data, base, coef=2.0)
    assert metrics == {"kl_policy_base": 0.5}
    assert [d.loss_fn_inputs["advantages"].array.tolist() for d in found] == [[0.0, -1.0], [1.0]]
    assert data[0].loss_fn_inputs["advantages"].array.tolist() == [0.0, 0.0]


@given(st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0), st.booleans()), min_size=1, max_size=8))
def test_a_penalty_moves_no_advantage_on_the_whole(rows: list[tuple[float, float, bool]]) -> None:
    mask = [float(on) for _, _, on in rows]
    data = [rolled([lp for lp, _, _ in rows], mask)]
    found, metrics = incorporate_kl_penalty(data, [np.float32([b for _, b, _ in rows])], coef=1.0)
    advantages = found[0].loss_fn_inputs["advantages"].array
    assert advantages.sum() == pytest.approx(0, abs=1e-4)
    assert not advantages[np.array(mask) == 0].any()
    assert math.isnan(metrics["kl_policy_base"]) == (sum(mask) == 0)


def test_figures_of_sampler_and_update_by_hand() -> None:
    data = [rolled([-1.0, -3.0, 0.0], [1, 1, 0])]
    other = [np.float32([-2.0, -1.0, -50.0])]  # q − p = 1, −2
    found = kl_sample_train(data, other)
    assert found["optim/kl_sample_train_v1"] == pytest.approx(-0.5)
    assert found["optim/kl_sample_train_v2"] == pytest.approx(0.5 * 2.5)
    assert found["optim/entropy"] == pytest.approx(2.0)
    assert post_kl(data, other) == {"kl_pre_post_v1": -0.5, "kl_pre_post_v2": 1.25}
    assert post_kl(data, [data[0].loss_fn_inputs["logprobs"].array]) == {
        "kl_pre_post_v1": 0.0,
        "kl_pre_post_v2": 0.0,
    }


def test_log_probabilities_that_do_not_fit_are_refused() -> None:
    data = [rolled([-1.0], [1])]
    with pytest.raises(DataError, match="of 2 datums for 1"):
        log_ratios(data, [np.zeros(1), np.zeros(1)])
    with pytest.raises(DataError, match=r"shape \(2,\) for \(1,\)"):
        log_ratios(data, [np.zeros(2)])
    with pytest.raises(DataError, match="no log-probability at position 2"):
        target_logprobs([None, -1.0, None])
    with pytest.raises(DataError, match="call this before inputs_for_loss"):
        log_ratios([inputs_for_loss(data[0], "ppo")], [np.zeros(1)])
    bare = Datum(data[0].model_input, {"mask": data[0].loss_fn_inputs["mask"]})
    with pytest.raises(DataError, match="no 'advantages'"):
        add_to_advantages([bare], [np.zeros(1)])


# Order


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_split_loses_nothing_and_is_even(n: int, parts: int) -> None:
    if parts > n:
        with pytest.raises(ConfigError, match=f"{n} items in {parts} parts"):
            split_list(range(n), parts)
        return
    found = split_list(range(n), parts)
    assert [i for part in found for i in part] == list(range(n))
    sizes = {len(part) for part in found}
    assert max(sizes) - min(sizes) <= 1


def test_an_exact_edge_is_rounded_as_upstream_rounds_it() -> None:
    found = split_list(range(68), 28)
    assert [part[0] for part in found][19:23] == [46, 48, 50, 53]  # 21 · (68 / 28) is 51 less one bit


@given(st.integers(1, 12), st.one_of(st.none(), st.integers(0, 5)))
def test_every_pass_takes_every_batch_once(batches: int, seed: int | None) -> None:
    for epoch in range(3):
        steps = range(epoch * batches, (epoch + 1) * batches)
        assert sorted(epoch_batch_index(step, batches, seed) for step in steps) == list(range(batches))


def test_a_source_gives_every_group_before_it_gives_one_again() -> None:
    schedule = interleaved_schedule([3, 5], [1, 2], 4, total_batches=20, seed=3)
    for source, size in enumerate((3, 5)):
        taken = [g for batch in schedule for s, g in batch if s == source]
        for start in range(0, len(taken) - size, size):
            assert sorted(taken[start : start + size]) == list(range(size))
    assert len(schedule) == 20
    assert all(len(batch) == 4 for batch in schedule)


def test_orders_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="step 0 of 0 batches"):
        epoch_batch_index(0, 0)
    with pytest.raises(ConfigError, match="one positive weight per source"):
        interleaved_schedule([3], [1, 1], 2)
    with pytest.raises(ConfigError, match="one positive weight per source"):
        interleaved_schedule([3, 0], [1, 1], 2)
    with pytest.raises(ConfigError, match="batches of 0 groups"):
        interleaved_schedule([3], [1], 0)


# Environments


@pytest.mark.parametrize("text", ["12", "so 12", "1, 2 and 12.", "1,2"])
def test_an_answer_ends_in_its_last_integer(text: str) -> None:
    assert final_integer(text) == 12


def test_an_answer_that_cannot_be_judged_has_no_reward(mini: FileTokenizer) -> None:
    heard = []

    async def grader(answer: str) -> Verdict:
        heard.append(answer)
        return Verdict.CANNOT_JUDGE

    renderer = get_renderer("qwen3", mini)
    env = ProblemEnv(question="?", renderer=renderer, grader=grader, reference_answer="5")
    (stop,) = renderer.stop_sequences
    result = asyncio.run(env.step(sampled(*mini.encode("perhaps 5"), int(stop))))
    assert result.reward is None
    assert result.episode_done
    assert dict(result.metrics) == {"format": 1.0}
    assert result.logs["verdict"] == "cannot_judge"
    assert heard == ["perhaps 5"]


def test_every_member_of_a_group_tries_the_same_sum(mini: FileTokenizer) -> None:
    renderer = get_renderer("role_colon", mini)
    dataset = ArithmeticDataset(renderer=renderer, batch_size=3, group_size=4, n_batches=2)
    assert isinstance(dataset, RLDataset)
    assert len(dataset) == 2
    answers: list[str] = []

    async def complete(observation: ModelInput, stop: StopCondition) -> SampledSequence:
        text = mini.decode(observation.to_ints())
        left, right = text.split("What is ")[1].split("?")[0].split(" + ")
        answers.append(text)
        wrong = len(answers) % 4 == 0
        return sampled(*mini.encode(f" {int(left) + int(right) + wrong}\n\nUser:"))

    builders = dataset.get_batch(1)
    assert all(isinstance(builder, EnvGroupBuilder) for builder in builders)
    groups = [asyncio.run(rollout_group(builder, lambda _: complete)) for builder in builders]
    for i, one in enumerate(groups):
        assert len(set(answers[4 * i : 4 * i + 4])) == 1
        assert one.total_rewards() == [1.0, 1.0, 1.0, 0.0]
        assert one.tags == ("arithmetic",)
    found = trajectory_metrics(groups)
    assert found["env/all/correct"] == 0.75
    assert found["env/all/by_group/frac_mixed"] == 1.0
    data, origins = assemble_training_data(groups, compute_advantages(groups))
    assert len(data) == len(origins) == 12


def test_sizes_below_one_are_refused(mini: FileTokenizer) -> None:
    with pytest.raises(ConfigError, match="group_size = 0"):
        ArithmeticDataset(renderer=get_renderer("role_colon", mini), batch_size=1, group_size=0)


class Countdown:
    """An episode of as many turns as it is told, each with a reward of 1."""

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.seen = [1]

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        return ModelInput.from_ints(self.seen), [9]

    async def step(self, action: SampledSequence) -> StepResult:
        self.left -= 1
        self.seen = [*self.seen, *action.tokens, 7]
        return StepResult(
            reward=1.0,
            episode_done=self.left == 0,
            next_observation=ModelInput.from_ints(self.seen),
            next_stop=[9],
        )


async def says_five(observation: ModelInput, stop: StopCondition) -> SampledSequence:
    assert stop == [9]
    return sampled(5)


def test_an_episode_goes_on_until_it_is_over_or_long_enough() -> None:
    env = Countdown(3)
    assert isinstance(env, Env)
    whole = asyncio.run(rollout(env, says_five))
    assert [t.observation.to_ints() for t in whole.transitions] == [[1], [1, 5, 7], [1, 5, 7, 5, 7]]
    assert [t.episode_done for t in whole.transitions] == [False, False, True]
    assert whole.reward == 3
    assert whole.final_observation.to_ints() == [1, 5, 7, 5, 7, 5, 7]
    assert len(trajectory_to_data(whole, 1.0)) == 1
    assert len(asyncio.run(rollout(Countdown(3), says_five, max_turns=2)).transitions) == 2


class Pair:
    """Two members, the longer of which wins the group's reward."""

    def __init__(self, rewards: Sequence[float] = (1.0, -1.0)) -> None:
        self.rewards = rewards

    async def make_envs(self) -> Sequence[Env]:
        return [Countdown(2), Countdown(1)]

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        return [(reward, {"win": float(reward > 0)}) for reward in self.rewards]

    def logging_tags(self) -> Sequence[str]:
        return ["pair"]


def test_a_group_has_the_rewards_of_its_members_and_its_own() -> None:
    found = asyncio.run(rollout_group(Pair(), lambda _: says_five))
    assert found.total_rewards() == [3.0, 0.0]
    assert [dict(m) for m in found.metrics] == [{"win": 1.0}, {"win": 0.0}]
    with pytest.raises(DataError, match="1 group rewards for 2 members"):
        asyncio.run(rollout_group(Pair([1.0]), lambda _: says_five))


def test_a_member_that_fails_raises_its_own_error() -> None:
    async def fails(observation: ModelInput, stop: StopCondition) -> SampledSequence:
        raise ServiceError(what="gone", where="sampler", remedy="start it")

    with pytest.raises(ServiceError, match="gone"):
        asyncio.run(rollout_group(Pair(), lambda _: fails))


def test_a_group_is_one_problem_by_construction(mini: FileTokenizer) -> None:
    env = arithmetic_env(2, 3, get_renderer("role_colon", mini))
    members = asyncio.run(ProblemGroup(env=env, num_envs=5).make_envs())
    assert len(members) == 5
    assert all(member is env for member in members)
    assert ProblemGroup(env=env, num_envs=5).logging_tags() == ["problems"]
