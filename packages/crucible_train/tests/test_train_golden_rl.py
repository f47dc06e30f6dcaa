"""Trajectories, advantages, divergences, order and rewards equal what was recorded upstream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crucible_ir.errors import DataError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.distillation import (
    incorporate_teacher_kl,
    mixed_batch,
    soft_target_datum,
    source_counts,
)
from crucible_train.grading import cookbook_boxed_answer
from crucible_train.renderers import Renderer, get_renderer
from crucible_train.rl import (
    Problem,
    ProblemDataset,
    ProblemEnv,
    Trajectory,
    TrajectoryGroup,
    Transition,
    arithmetic_env,
    assemble_training_data,
    compute_advantages,
    cycle_permutation,
    discounted_future_sum,
    epoch_batch_index,
    final_integer,
    group_advantages,
    incorporate_kl_penalty,
    interleaved_schedule,
    kl_sample_train,
    operands,
    post_kl,
    remove_constant_reward_groups,
    scored_input,
    split_list,
    strawberry_prefix,
    target_logprobs,
    trajectory_metrics,
    trajectory_to_data,
    verdict_of,
)
from crucible_train.supervised import datum_from_model_input_weights
from crucible_train.types import Datum, EncodedTextChunk, ImageChunk, ModelInput, SampledSequence, TensorData

Golden = Callable[[str], dict[str, Any]]


def model_input(chunks: list[dict[str, Any]]) -> ModelInput:
    return ModelInput(
        tuple(
            EncodedTextChunk(tuple(chunk["text"]))
            if "text" in chunk
            else ImageChunk(data=b"i", format="png", expected_tokens=chunk["image_length"])
            for chunk in chunks
        )
    )


def sampled(tokens: list[int], logprobs: list[float] | None = None) -> SampledSequence:
    given = tuple(logprobs if logprobs is not None else [-1.0] * len(tokens))
    return SampledSequence(tokens=tuple(tokens), logprobs=given, stop_reason="stop")


def trajectory(recorded: dict[str, Any]) -> Trajectory:
    return Trajectory(
        transitions=tuple(
            Transition(
                observation=model_input(turn["ob"]),
                action=sampled(turn["ac"], turn["logprobs"]),
                reward=turn["reward"],
                masked=bool(turn["metrics"].get("parse_error_masked")),
            )
            for turn in recorded["transitions"]
        )
    )


def assert_same(ours: list[Datum], recorded: list[dict[str, Any]]) -> None:
    assert len(ours) == len(recorded)
    for datum, theirs in zip(ours, recorded, strict=True):
        chunks = [
            {"text": list(chunk.tokens)}
            if isinstance(chunk, EncodedTextChunk)
            else {"image_length": chunk.expected_tokens}
            for chunk in datum.model_input.chunks
        ]
        assert chunks == theirs["input_chunks"]
        assert set(datum.loss_fn_inputs) == {"target_tokens", "logprobs", "advantages", "mask"}
        for name, tensor in datum.loss_fn_inputs.items():
            assert tensor.array.tolist() == theirs[name]["data"]


def test_all_80_trajectories_become_the_recorded_datums(golden: Golden) -> None:
    cases = golden("rl_trajectory_to_data")["cases"]
    refused, retyped = 0, 0
    for case in cases:
        if "error" in case:
            refused += 1
            with pytest.raises(DataError, match="two are needed"):
                trajectory_to_data(trajectory(case["trajectory"]), case["advantage"])
            continue
        ours = trajectory_to_data(trajectory(case["trajectory"]), case["advantage"])
        assert_same(ours, case["data"])
        for datum, theirs in zip(ours, case["data"], strict=True):
            different = [n for n, t in datum.loss_fn_inputs.items() if t.dtype != theirs[n]["dtype"]]
            assert different in ([], ["advantages"])  # explained: upstream's are int64 where all are 0
            retyped += bool(different)
    assert (len(cases), refused, retyped) == (80, 4, 4)


def test_groups_are_assembled_in_the_recorded_order(golden: Golden) -> None:
    cases = {case["name"]: case["trajectory"] for case in golden("rl_trajectory_to_data")["cases"]}
    recorded = golden("rl_advantages_metrics")["assemble"]
    for case in recorded:
        groups = [
            TrajectoryGroup(
                trajectories=tuple(trajectory(cases[name]) for name in names),
                final_rewards=tuple(rewards),
                metrics=({},) * len(names),
            )
            for names, rewards in zip(case["groups"], case["final_rewards"], strict=True)
        ]
        data, origins = assemble_training_data(groups, compute_advantages(groups))
        assert_same(data, case["data"])
        assert [{"group_idx": p, "traj_idx": g} for p, g in origins] == case["metadata"]
    assert len(recorded) == 1


def group(rewards: list[float], tags: tuple[str, ...] = ()) -> TrajectoryGroup:
    turn = Transition(observation=ModelInput.from_ints([1]), action=sampled([2]), reward=0.0)
    one = Trajectory(transitions=(turn,))
    return TrajectoryGroup(
        trajectories=(one,) * len(rewards),
        final_rewards=tuple(rewards),
        metrics=({},) * len(rewards),
        tags=tags,
    )


def test_all_12_advantages_are_equal(golden: Golden) -> None:
    cases = golden("rl_advantages_metrics")["advantages"]
    for case in cases:
        found = group_advantages(case.get("total", case["rewards"]))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.float32(case["advantages"]), rtol=0, atol=2.5e-7)
    assert len(cases) == 12


def test_the_recorded_groups_are_kept(golden: Golden) -> None:
    cases = golden("rl_advantages_metrics")["remove_constant"]
    for case in cases:
        groups = [group(rewards) for rewards in case["rewards"]]
        kept = remove_constant_reward_groups(groups)
        assert [next(i for i, g in enumerate(groups) if g is k) for k in kept] == case["kept"]
    assert len(cases) == 5


def metric_group(recorded: dict[str, Any], tags: list[str]) -> TrajectoryGroup:
    trajectories = tuple(
        Trajectory(
            transitions=tuple(
                Transition(
                    observation=ModelInput.from_ints(range(observed)),
                    action=sampled(list(range(acted))),
                    reward=0.0,
                    cached_tokens=cached,
                    metrics=metrics,
                )
                for observed, acted, cached, metrics in zip(
                    one["ob_lens"], one["ac_lens"], one["cache_hits"], one["metrics"], strict=True
                )
            )
        )
        for one in recorded["trajectories"]
    )
    return TrajectoryGroup(
        trajectories=trajectories,
        final_rewards=tuple(recorded["total_rewards"]),
        metrics=tuple(recorded["metrics_G"]),
        tags=tuple(tags),
    )


def test_all_6_sets_of_metrics_are_equal(golden: Golden) -> None:
    recorded = golden("rl_advantages_metrics")
    for case in recorded["trajectory_metrics"]:
        given = [] if case.get("groups") == "none" else recorded["metric_groups"]
        # one case has a list of tags too few, as upstream's loop does; here a group without tags has none
        taglists = itertools.chain(case["taglists"], itertools.repeat([]))
        groups = [metric_group(one, tags) for one, tags in zip(given, taglists, strict=False)]
        assert trajectory_metrics(groups) == pytest.approx(case["metrics"], rel=1e-12)
    assert len(recorded["trajectory_metrics"]) == 6


# Divergences


def tensor(recorded: dict[str, Any]) -> TensorData:
    return TensorData.of(recorded["data"], dtype=recorded["dtype"])


def datums(before: list[dict[str, Any]], advantages: list[dict[str, Any]] | None = None) -> list[Datum]:
    found = []
    for i, one in enumerate(before):
        inputs = {name: tensor(value) for name, value in one.items()}
        if advantages is not None:
            inputs["advantages"] = tensor(advantages[i])
        length = len(one["mask"]["data"])
        inputs["target_tokens"] = TensorData.of(list(range(1, length + 1)))
        found.append(Datum(ModelInput.from_ints(range(length)), inputs))
    return found


def assert_advantages(data: list[Datum], recorded: list[dict[str, Any]]) -> None:
    for datum, theirs in zip(data, recorded, strict=True):
        ours = datum.loss_fn_inputs["advantages"]
        assert ours.dtype == "float32"
        np.testing.assert_allclose(ours.array, np.float32(theirs["data"]), rtol=1e-6, atol=2e-6)


def test_all_18_penalties_are_equal(golden: Golden) -> None:
    cases = golden("rl_kl")["kl_penalty"]
    for case in cases:
        data = datums(case["before"])
        base = [target_logprobs(row) for row in case["base_prompt_logprobs"]]
        assert [scored_input(datum).length for datum in data] == [len(lp) + 1 for lp in base]
        found, metrics = incorporate_kl_penalty(data, base, coef=case["coef"], discount=case["discount"])
        assert_advantages(found, case["advantages_after"])
        assert metrics == pytest.approx(case["metrics"], rel=1e-6)
    assert len(cases) == 18


def test_all_8_advantages_of_on_policy_distillation_are_equal(golden: Golden) -> None:
    cases = golden("rl_kl")["distill_kl"]
    for case in cases:
        data = datums(case["before"], case["advantages_before"])
        teacher = [target_logprobs(row) for row in case["teacher_prompt_logprobs"]]
        found, metrics = incorporate_teacher_kl(
            data,
            teacher,
            coef=case["coef"],
            discount=case["discount"],
            dataset_D=case["dataset_indices"],
        )
        assert_advantages(found, case["advantages_after"])
        assert metrics == pytest.approx(case["metrics"], rel=1e-6)
    assert len(cases) == 8


def test_all_divergences_of_sampler_training_and_update_are_equal(golden: Golden) -> None:
    recorded = golden("rl_kl")
    for case in recorded["kl_sample_train"]:
        training = [np.float32(row) for row in case["train_logprobs"]]
        assert kl_sample_train(datums(case["sample"]), training) == pytest.approx(
            case["metrics"], rel=1e-6, abs=1e-7
        )
    data = datums(recorded["kl_sample_train"][0]["sample"])
    for case in recorded["post_kl"]:
        after = [target_logprobs(row) for row in case["post_prompt_logprobs"]]
        assert post_kl(data, after) == pytest.approx(case["metrics"], rel=1e-6)
    assert (len(recorded["kl_sample_train"]), len(recorded["post_kl"])) == (3, 2)


def test_all_16_discounted_sums_are_equal(golden: Golden) -> None:
    cases = golden("rl_kl")["discounted_future_sum"]
    for case in cases:
        np.testing.assert_allclose(
            discounted_future_sum(case["x"], case["gamma"]), np.float32(case["out"]), rtol=2e-7
        )
    assert len(cases) == 16


# Order


def test_splits_and_passes_are_those_recorded(golden: Golden) -> None:
    recorded = golden("rl_order")
    for case in recorded["split_list"]:
        parts = split_list(range(case["n"]), case["k"])
        assert [len(part) for part in parts] == case["sizes"]
        assert [part[0] for part in parts] == case["first"]
    for case in recorded["cycle_permutation"]:
        assert cycle_permutation(case["size"], case["seed"], case["cycle"]) == case["perm"]
    for case in recorded["epoch_batch_index"]:
        steps = range(len(case["indices"]))
        found = [epoch_batch_index(step, case["num_batches"], case["shuffle_seed"]) for step in steps]
        assert found == case["indices"]
    counts = [len(recorded[k]) for k in ("split_list", "cycle_permutation", "epoch_batch_index")]
    assert counts == [8, 18, 6]


def test_all_5_mixtures_of_sources_take_the_recorded_groups(golden: Golden) -> None:
    cases = golden("rl_order")["interleaved"]
    for case in cases:
        per_batch = [source["per_batch"] for source in case["sources"]]
        sizes = [source["batches"] * source["per_batch"] for source in case["sources"]]
        schedule = interleaved_schedule(
            sizes, case["weights"], case["groups_per_batch"], case["total_batches"], case["seed"]
        )
        named = [
            [f"{'abc'[s]}{group // per_batch[s]}:{group % per_batch[s]}" for s, group in batch]
            for batch in schedule
        ]
        assert len(schedule) == case["len"]
        assert named == case["batches"]
    assert len(cases) == 5


def test_sums_and_their_answers_are_those_recorded(golden: Golden) -> None:
    recorded = golden("rl_order")
    for case in recorded["arithmetic"]:
        assert [list(pair) for pair in operands(case["index"], len(case["xy"]))] == case["xy"]
    for case in recorded["extract_final_int"]:
        assert final_integer(case["text"]) == case["value"]
    assert (len(recorded["arithmetic"]), len(recorded["extract_final_int"])) == (6, 13)


# Rewards


def math_env(renderer: Renderer, require_stop: bool) -> ProblemEnv:
    problem = Problem(question="What is 1+2?", answer="3")
    problems = ProblemDataset(
        problems=[problem],
        renderer=renderer,
        grader_for=lambda gold: verdict_of(lambda text: cookbook_boxed_answer(text) == gold),
        batch_size=1,
        group_size=1,
        prefix=strawberry_prefix(),
        rules="cookbook_exact",
        require_stop_sequence=require_stop,
    )
    return problems.env(problem)


def test_all_144_answers_earn_the_recorded_rewards(golden: Golden, mini: FileTokenizer) -> None:
    cases = golden("rl_env_steps")["cases"]
    for case in cases:
        renderer = get_renderer(case["renderer"], mini)
        require = case["require_stop"]
        if case["env"] == "math":
            env = math_env(renderer, require)
        else:
            env = arithmetic_env(4, 5, renderer, require_stop_sequence=require)
        prompt, stop = asyncio.run(env.initial_observation())
        assert prompt.to_ints() == case["prompt"]
        assert list(stop or ()) == case["stop"]
        result = asyncio.run(env.step(sampled(case["tokens"])))
        assert result.reward == pytest.approx(case["reward"])
        assert dict(result.metrics) == case["metrics"]
        assert result.episode_done is case["done"] is True
    assert len(cases) == 144


# Off-policy distillation


def test_all_6_soft_targets_are_equal_but_for_the_weight_of_the_position(golden: Golden) -> None:
    cases = golden("distill_off_policy")["topk"]
    for case in cases:
        recorded = np.array(case["weights"])
        for reduction in ("none", "mean"):
            source = datum_from_model_input_weights(
                ModelInput.from_ints(case["tokens"]), case["weights_in"], reduction=reduction
            )
            found = soft_target_datum(source, case["teacher_topk"], case["n_teacher_targets"])
            assert found.target_tokens.tolist() == case["target_tokens"]
            # explained: upstream gives every trained position weight 1, whatever the source says
            expected = recorded * source.weights[:, None]
            np.testing.assert_allclose(found.weights, expected, rtol=1e-6, atol=1e-9)
            assert found.weights.sum() == pytest.approx(3.0 if reduction == "none" else 1.0)
        assert case["reduction"] == "mean"
    assert len(cases) == 6


def test_rows_come_from_the_recorded_sources(golden: Golden) -> None:
    cases = golden("distill_off_policy")["composite"]
    short = 0
    for case in cases:
        counts = source_counts(case["weights"], case["batch_size"])
        assert counts == case["counts"]
        sizes = case["source_batch_sizes"]
        batches = [[f"{'abc'[s]}1:{i}" for i in range(size)] for s, size in enumerate(sizes)]
        if sum(counts) != len(case["batch1"]):  # explained: upstream makes the batch smaller without a word
            short += 1
            with pytest.raises(DataError, match="source 0 gives 3 rows where 5 are needed"):
                mixed_batch(batches, counts)
            continue
        rows, sources = mixed_batch(batches, counts)
        assert rows == case["batch1"]
        assert sources == case["teacher_indices"]
    assert (len(cases), short) == (7, 1)
