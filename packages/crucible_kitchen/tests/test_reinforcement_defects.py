"""Listed defects of reinforcement learning, where no other test names the claim; docs/defects.md has them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, Experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.workflows.reinforcement import ReinforcementOptions, reinforcement
from crucible_testing.backend import BigramSampler, BigramTraining
from crucible_testing.bench import plant_bigram, toy_experiment
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_train.schedules import lr_multiplier
from crucible_train.types import Datum, ModelInput, SamplingParams

RATE = 0.5
GROUPS, MEMBERS, ITERATIONS = 4, 3, 4

LETTERS = '''
"""Questions whose right answers begin with an ASCII byte; those of even number are all alike."""
from crucible_kitchen.environments.batched import BatchedProblems
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem
from crucible_train.rl import ProblemEnv, ProblemGroup, verdict_of

class Letters(Environment):
    """Answers that begin with a plain letter are right."""

    def build(self, material):
        def problem(number, check):
            return ProblemEnv(question=f"q{number}", renderer=material.renderer, grader=verdict_of(check))

        def plain(text):
            return text[:1].isascii()

        def always(text):
            return True

        problems = [problem(n, plain if n % 2 else always) for n in range(16)]
        held_out = [
            HeldOutProblem(example_id=f"h{n}", builder=ProblemGroup(env=problem(n, plain), num_envs=1))
            for n in range(100, 104)
        ]
        return Environments(train=Tagged(material, problems), held_out=held_out)

class Tagged:
    """Batches whose groups are tagged with what their number is."""

    def __init__(self, material, problems):
        self.material, self.problems = material, problems

    def get_batch(self, index):
        size = self.material.groups_per_batch
        return [
            ProblemGroup(
                env=env,
                num_envs=self.material.group_size,
                dataset_name="even" if int(env.question[1:]) % 2 == 0 else "odd",
            )
            for env in self.problems[index * size : (index + 1) * size]
        ]

    def __len__(self):
        return len(self.problems) // self.material.groups_per_batch
'''

Make = Callable[..., Experiment]


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Callable[..., Path]) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site_of_bigram")))
    entry = "[crucible.environments]\nletters = letters_probe:Letters\n"
    package("letters-probe", {"letters_probe.py": LETTERS}, entry)
    return Crucible(tmp_path / "home")


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a run of 4 iterations of 4 problems, each tried by 3 members."""

    def make(*, options: dict[str, Any] | None = None, **changes: Any) -> Experiment:
        settings = {"batch_size": GROUPS, "loss": "importance_sampling", "eval_every": 0} | changes
        plain = toy_experiment(tmp_path, learning_rate=RATE, **settings)
        chosen = {
            "renderer": "role_colon",
            "data": False,
            "env": "letters",
            "group_size": MEMBERS,
            "max_tokens": 3,
            "evaluate": False,
        }
        nodes = reinforcement(ReinforcementOptions(**{**chosen, **(options or {})}))
        return plain.model_copy(
            update={
                "pipeline": nodes,
                "workflow": "reinforcement",
                "dataset": None,
                "eval_dataset": None,
            }
        )

    return make


class Watch:
    """What samplers were asked, and what was trained, each with the weights of that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, SamplingParams, np.ndarray, int]] = []
        self.trained: list[tuple[list[Datum], str, np.ndarray]] = []
        sample, train = BigramSampler.sample, BigramTraining.forward_backward

        def sampled(client: BigramSampler, prompt: ModelInput, params: SamplingParams, **rest: Any) -> Any:
            text = ByteTokenizer().decode(prompt.to_ints())
            self.asked.append((text, params, client._weights, len(self.trained)))
            return sample(client, prompt, params, **rest)

        def trained(client: BigramTraining, data: Sequence[Datum], loss_fn: str, *rest: Any) -> Any:
            self.trained.append((list(data), loss_fn, client.table.weights.copy()))
            return train(client, data, loss_fn, *rest)

        monkeypatch.setattr(BigramSampler, "sample", sampled)
        monkeypatch.setattr(BigramTraining, "forward_backward", trained)

    def of_iteration(self, number: int) -> list[tuple[str, SamplingParams, np.ndarray]]:
        """What was asked between update ``number`` and the one before it."""
        return [(text, params, weights) for text, params, weights, after in self.asked if after == number]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def rows_of(crucible: Crucible, run_id: str) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in crucible.metrics(run_id).rows]


def test_dk5_every_iteration_samples_with_the_weights_that_the_last_update_left(
    crucible: Crucible, made: Make, watch: Watch
) -> None:
    record = crucible.run(made())
    assert len(watch.trained) == ITERATIONS
    for number, (_, _, before) in enumerate(watch.trained):
        asked = watch.of_iteration(number)
        assert len(asked) == GROUPS * MEMBERS
        assert all(np.array_equal(weights, before) for _, _, weights in asked)
    weights = [before for _, _, before in watch.trained]
    assert not any(np.array_equal(one, other) for one, other in pairwise(weights))
    for _, metrics in rows_of(crucible, record.run_id):
        assert metrics["optim/kl_sample_train_v2"] == pytest.approx(0, abs=1e-9)


def test_dk6_the_members_of_a_group_try_one_problem_and_groups_are_as_many_as_asked(
    crucible: Crucible, made: Make, watch: Watch
) -> None:
    crucible.run(made())
    for number in range(ITERATIONS):
        asked = [text for text, _, _ in watch.of_iteration(number)]
        expected = [f"User: q{GROUPS * number + g}\n\nAssistant:" for g in range(GROUPS)]
        assert sorted(asked) == sorted(expected * MEMBERS)
        assert len(watch.trained[number][0]) == GROUPS * MEMBERS
    advantages = [datum.loss_fn_inputs["advantages"].array for datum in watch.trained[0][0]]
    sums = [float(array.max() if array.max() > 0 else array.min()) for array in advantages]
    for g in range(GROUPS):
        assert sum(sums[MEMBERS * g : MEMBERS * (g + 1)]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo"])
def test_dt2_the_loss_is_the_one_that_was_asked_for(
    crucible: Crucible, made: Make, watch: Watch, loss: str
) -> None:
    crucible.run(made(loss=loss))
    assert {name for _, name, _ in watch.trained} == {loss}
    inputs = {frozenset(datum.loss_fn_inputs) for data, _, _ in watch.trained for datum in data}
    assert inputs == {frozenset({"target_tokens", "logprobs", "advantages"})}


def test_dk6_a_loss_that_reads_no_advantage_is_refused_before_anything_runs(
    crucible: Crucible, made: Make
) -> None:
    with pytest.raises(ConfigError, match=r"training\.loss"):
        crucible.plan(made(loss="cross_entropy"))


def test_dt2_what_is_rewarded_becomes_more_frequent_and_without_a_rate_it_does_not(
    crucible: Crucible, made: Make
) -> None:
    def rewards(rate: float) -> list[float]:
        experiment = made(epochs=5, options={"group_size": 16})
        assert experiment.training is not None
        optimizer = experiment.training.optimizer.model_copy(update={"learning_rate": rate})
        training = experiment.training.model_copy(update={"optimizer": optimizer})
        record = crucible.run(experiment.model_copy(update={"training": training}))
        return [metrics["env/odd/correct"] for _, metrics in rows_of(crucible, record.run_id)]

    learned, idle = rewards(RATE), rewards(0.0)
    assert learned[0] == idle[0] < 0.8
    assert min(learned[-4:]) > 0.9
    assert max(idle) < 0.8


def test_c7_groups_are_reported_under_their_own_tags_where_constant_ones_are_removed(
    crucible: Crucible, made: Make, watch: Watch
) -> None:
    record = crucible.run(made(options={"remove_constant_reward_groups": True}))
    for _, metrics in rows_of(crucible, record.run_id):
        assert metrics["env/even/correct"] == 1.0
        assert metrics["env/even/total_episodes"] == GROUPS / 2 * MEMBERS
        assert metrics["env/odd/total_episodes"] == GROUPS / 2 * MEMBERS
    assert all(len(data) <= GROUPS / 2 * MEMBERS for data, _, _ in watch.trained)


def test_c16_what_is_asked_of_sampling_reaches_the_sampler(
    crucible: Crucible, made: Make, watch: Watch
) -> None:
    options = {"temperature": 0.5, "max_tokens": 2, "evaluate": True, "eval_temperature": 0.25}
    crucible.run(made(options={**options, "eval_max_tokens": 5}))
    acting = {(p.temperature, p.max_tokens) for text, p, _, _ in watch.asked if "q10" not in text[:9]}
    assert acting >= {(0.5, 2)}
    assert {(p.temperature, p.max_tokens) for _, p, _, _ in watch.asked} == {(0.5, 2), (0.25, 5)}
    assert {p.stop for _, p, _, _ in watch.asked} == {("\n\nUser:",)}


def test_c18_rollouts_follow_from_the_seed_of_the_experiment(
    crucible: Crucible, made: Make, watch: Watch
) -> None:
    first, second = crucible.run(made()), crucible.run(made())
    assert rows_of(crucible, first.run_id) == rows_of(crucible, second.run_id)
    other = crucible.run(made().model_copy(update={"seed": 1}))
    assert rows_of(crucible, other.run_id) != rows_of(crucible, first.run_id)
    seeds = [params.seed for _, params, _, _ in watch.asked[: GROUPS * MEMBERS * ITERATIONS]]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("substeps", [1, 2])
def test_dk4_the_rate_of_every_iteration_is_positive_and_belongs_to_a_count_that_moves_by_one(
    crucible: Crucible, made: Make, substeps: int
) -> None:
    record = crucible.run(made(options={"num_substeps": substeps}))
    rows = rows_of(crucible, record.run_id)
    assert [step for step, _ in rows] == list(range(ITERATIONS))
    rates = [metrics["learning_rate"] for _, metrics in rows]
    assert rates == pytest.approx([RATE * lr_multiplier("linear", step, ITERATIONS) for step in range(4)])
    assert min(rates) > 0
    assert [metrics["progress"] for _, metrics in rows] == [0.25, 0.5, 0.75, 1.0]


def test_dt13_how_far_an_update_moved_the_policy_is_measured_over_any_backend(
    crucible: Crucible, made: Make
) -> None:
    record = crucible.run(made(options={"compute_post_kl": True}))
    moved = [metrics["kl_pre_post_v2"] for _, metrics in rows_of(crucible, record.run_id)]
    assert all(math.isfinite(value) for value in moved)
    assert max(moved) > 0


@pytest.mark.parametrize("coef", [0.0, 0.1])
@pytest.mark.parametrize("step", [1, 3])
def test_c1_c3_a_resumed_run_equals_an_uninterrupted_one_and_keeps_its_reference(
    crucible: Crucible, made: Make, coef: float, step: int
) -> None:
    experiment = made(save_every=1, options={"kl_penalty_coef": coef})
    whole = crucible.run(experiment)

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    resumed = crucible.resume(crucible.list(limit=1).runs[0].run_id)
    assert rows_of(crucible, resumed.run_id) == rows_of(crucible, whole.run_id)
    base = [metrics.get("kl_policy_base") for _, metrics in rows_of(crucible, whole.run_id)]
    assert (base[0], base[-1] != 0) == ((None, True) if not coef else (pytest.approx(0, abs=1e-9), True))
