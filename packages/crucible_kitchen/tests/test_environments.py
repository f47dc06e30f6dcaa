"""Environments that come with the kitchen: sums, problems of a dataset, and how others join them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import (
    AdapterError,
    ConfigError,
    Contract,
    DataError,
    DatasetRef,
    DatasetSnapshot,
    Experiment,
    StageDef,
    TrainingConfig,
)
from crucible_kitchen.catalog import environment
from crucible_kitchen.engine.context import PlanContext
from crucible_kitchen.environments.arithmetic import Arithmetic, ArithmeticOptions
from crucible_kitchen.environments.batched import BatchedProblems
from crucible_kitchen.environments.environment import Environment, Environments, Material
from crucible_kitchen.environments.problems import MathProblems, MathProblemsOptions
from crucible_kitchen.environments.prompts import Prompts
from crucible_kitchen.stages.build_env_group import bridge_for
from crucible_testing.bench import plant_bigram
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_testing.engine import MemoryPorts
from crucible_testing.letters import FaultyJudge, Letters
from crucible_train.renderers import get_renderer
from crucible_train.rl import EnvGroupBuilder, ProblemEnv, ProblemGroup, RLDataset, operands
from crucible_train.types import SampledSequence

TOKENIZER = ByteTokenizer()


def rows(*found: dict[str, Any]) -> DatasetSnapshot:
    return DatasetSnapshot(ref=DatasetRef(id="some/rows"), rows=found)


def material(**changes: Any) -> Material:
    renderer = get_renderer("role_colon", TOKENIZER)
    settings = {"renderer": renderer, "groups_per_batch": 3, "group_size": 2, "seed": 0} | changes
    return Material(**settings)


def plan_of(ports: dict[str, Any] | None = None, **experiment: Any) -> PlanContext:
    pipeline = (StageDef(name="build_env_group"),)
    made = Experiment(id="x", pipeline=pipeline, training=TrainingConfig(batch_size=3), **experiment)
    return PlanContext(experiment=made, ports=MemoryPorts(ports or {}), path="pipeline[3]", prepared={})


def env_of(builder: EnvGroupBuilder) -> ProblemEnv:
    assert isinstance(builder, ProblemGroup)
    return builder.env


def questions(dataset: RLDataset) -> list[list[str]]:
    return [[env_of(group).question for group in dataset.get_batch(n)] for n in range(len(dataset))]


def outcome(env: ProblemEnv, answer: str) -> tuple[float | None, bool]:
    tokens = TOKENIZER.encode(answer)
    action = SampledSequence(tokens=tokens, logprobs=[-1.0] * len(tokens), stop_reason="stop")
    result = asyncio.run(env.step(action))
    return result.reward, result.episode_done


# --- sums ------------------------------------------------------------------------------------------------------


def sums(**options: Any) -> Arithmetic:
    return Arithmetic(ArithmeticOptions.parse(options))


def test_generated_sums_are_upstreams_in_their_order() -> None:
    made = sums(n_batches=4).build(material())
    assert questions(made.train) == [[f"What is {x} + {y}?" for x, y in operands(n, 3)] for n in range(4)]
    assert [group.num_envs for group in made.train.get_batch(0) if isinstance(group, ProblemGroup)] == [2] * 3
    assert made.held_out == []


def test_a_sum_is_rewarded_where_the_last_number_of_the_answer_is_right() -> None:
    (first, *_) = sums().build(material()).train.get_batch(0)
    env = env_of(first)
    right = env.reference_answer
    assert outcome(env, f" {right}\n\nUser:") == (1.0, True)
    assert outcome(env, f" {right}") == (0.9, True)
    assert outcome(env, " 1000\n\nUser:") == (0.0, True)


@pytest.mark.parametrize(("fewshot", "shots"), [(True, 1), (False, 0)])
def test_a_worked_example_stands_before_the_question_unless_unwanted(fewshot: bool, shots: int) -> None:
    made = sums(fewshot=fewshot, held_out=2).build(material())
    for builder in (made.train.get_batch(0)[0], made.held_out[0].builder):
        observation, stop = asyncio.run(env_of(builder).initial_observation())
        prompt = TOKENIZER.decode(observation.to_ints())
        assert prompt.count("What is 4 + 5?\n\nAssistant: 9") == shots
        assert prompt.endswith("?\n\nAssistant:")
        assert stop == ("\n\nUser:",)


@pytest.mark.parametrize("batches", [1, 30, 800])
def test_held_out_sums_are_none_that_are_trained_on_and_each_another(batches: int) -> None:
    made = sums(n_batches=batches, held_out=200).build(material(groups_per_batch=10))
    held_out = [env_of(problem.builder).question for problem in made.held_out]
    assert len(set(held_out)) == len({problem.example_id for problem in made.held_out}) == 200
    trained = {question for batch in questions(made.train) for question in batch}
    assert not trained & set(held_out)
    again = sums(n_batches=batches, held_out=200).build(material(groups_per_batch=10, seed=5))
    assert [p.example_id for p in again.held_out] == [p.example_id for p in made.held_out]


def test_where_training_leaves_too_few_sums_to_hold_out_that_is_said_before_the_run() -> None:
    greedy = sums(n_batches=30_000, held_out=2_000)
    with pytest.raises(ConfigError, match="held_out: training leaves fewer than 2000 of the 10201 sums"):
        greedy.check(plan_of())
    with pytest.raises(ConfigError, match="fewer than 2000"):
        greedy.build(material())
    assert sums(n_batches=30_000).check(plan_of()) == []
    assert greedy.check(plan_of(dataset=DatasetRef(id="some/rows"))) == []


def test_sums_of_rows_are_tried_in_the_order_of_the_rows() -> None:
    train = rows(*({"problem": f"What is {n} + 1?"} for n in range(4)))
    held_out = rows({"question": "What is 7 + 7?"}, {"question": "What is 7 + 7?"})
    made = sums().build(material(rows=train, held_out=held_out))
    assert questions(made.train) == [
        ["What is 0 + 1?", "What is 1 + 1?", "What is 2 + 1?"],
        ["What is 3 + 1?"],
    ]
    assert [env_of(problem.builder).question for problem in made.held_out] == ["What is 7 + 7?"]


def test_sums_of_rows_are_not_held_out_where_others_are_generated() -> None:
    train = rows(*({"problem": f"What is {n} + {n}?"} for n in range(101)))
    made = sums(held_out=50).build(material(rows=train))
    trained = {question for batch in questions(made.train) for question in batch}
    held_out = {env_of(problem.builder).question for problem in made.held_out}
    assert len(held_out) == 50
    assert not held_out & trained


def test_a_row_that_is_no_sum_is_named() -> None:
    with pytest.raises(DataError, match=r"some/rows, row 2: 'What is love\?' is no sum"):
        sums().build(material(rows=rows({"problem": "What is 1 + 1?"}, {"problem": "What is love?"})))


# --- problems --------------------------------------------------------------------------------------------------


def problems(**options: Any) -> MathProblems:
    return MathProblems(MathProblemsOptions.parse(options))


PROBLEMS = rows(*({"problem": f"How much is {n}?", "answer": str(n)} for n in range(4)))


def test_problems_are_asked_with_the_format_and_judged_by_their_gold_answers() -> None:
    bridge = FaultyJudge()
    made = problems(dataset_name="mine").build(material(rows=PROBLEMS, held_out=PROBLEMS, bridge=bridge))
    assert [len(batch) for batch in questions(made.train)] == [3, 1]
    env = env_of(made.train.get_batch(1)[0])
    assert env.question == "How much is 3? Write your answer in \\boxed{} format."
    assert outcome(env, " \\boxed{3}\n\nUser:") == (1.0, True)
    assert outcome(env, " It is 3.\n\nUser:") == (-0.1, True)
    assert outcome(env, " \\boxed{timeout}\n\nUser:") == (None, True)
    assert len(made.held_out) == 4
    assert [problem.builder.logging_tags() for problem in made.held_out] == [["mine"]] * 4


def test_options_of_problems_reach_their_environments() -> None:
    chosen = problems(fewshot=False, format_coef=0.5, require_stop_sequence=False, rules="cookbook_exact")
    made = chosen.build(material(rows=PROBLEMS, bridge=FaultyJudge()))
    env = env_of(made.train.get_batch(0)[0])
    assert (env.prefix, env.format_coef, env.require_stop_sequence) == ((), 0.5, False)
    assert outcome(env, " It is 0.\n\nUser:") == (-0.5, True)
    with_example = problems().build(material(rows=PROBLEMS, bridge=FaultyJudge()))
    assert len(env_of(with_example.train.get_batch(0)[0]).prefix) == 2


def test_problems_without_rows_or_judges_are_refused() -> None:
    for lacking in ({"rows": PROBLEMS}, {"bridge": FaultyJudge()}):
        with pytest.raises(AdapterError, match="problems need rows and a bridge"):
            problems().build(material(**lacking))
    (problem,) = problems().check(plan_of())
    assert "needs the port 'python_bridge', which the manifest does not name" in str(problem)
    assert problems().check(plan_of({"python_bridge": FaultyJudge()})) == []
    assert MathProblems.needs_rows
    assert not Arithmetic.needs_rows


def test_a_problem_without_an_answer_is_named_by_its_row() -> None:
    short = rows({"problem": "How much?", "answer": "3"}, {"problem": "How much?"})
    with pytest.raises(DataError, match="some/rows, row 2: 'answer' is no text"):
        problems().build(material(rows=short, bridge=FaultyJudge()))


# --- others ----------------------------------------------------------------------------------------------------


def test_environments_of_other_packages_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path)))
    assert environment("plain_letters") is Letters
    assert environment("arithmetic") is Arithmetic
    with pytest.raises(AdapterError, match="crucible.environments.*'arithmetik'; did you mean 'arithmetic'"):
        environment("arithmetik")


def test_what_is_registered_as_an_environment_and_is_none_is_refused(package: Callable[..., Path]) -> None:
    package(
        "not-an-env",
        {"not_an_env.py": "def thing(): ..."},
        "[crucible.environments]\nthing = not_an_env:thing\n",
    )
    with pytest.raises(AdapterError, match="'thing' of not-an-env is no subclass of Environment"):
        environment("thing")


def test_an_environment_needs_no_more_than_a_way_to_build_it() -> None:
    class Few(Environment):
        """Nothing but three problems."""

        def build(self, material: Material) -> Environments:
            (problem, *_) = sums().build(material).train.get_batch(0)
            return Environments(
                train=BatchedProblems(
                    problems=[env_of(problem)] * 3, batch_size=2, group_size=1, dataset_name="few"
                )
            )

    few = Few(Few.options_model())
    assert issubclass(Few.options_model, Contract)
    assert list(few.check(plan_of())) == []
    made = few.build(material())
    assert [len(batch) for batch in questions(made.train)] == [2, 1]
    assert made.held_out == ()


def test_only_environments_that_judge_behind_the_bridge_ask_for_it() -> None:
    assert MathProblems.needs_bridge
    assert not Arithmetic.needs_bridge
    assert not Prompts.needs_bridge

    class Context:
        def has_port(self, name: str) -> bool:
            return True

        def port(self, name: str) -> object:
            raise AssertionError("the bridge was made")

    ctx: Any = Context()
    assert bridge_for(ctx, Arithmetic(Arithmetic.options_model())) is None
    with pytest.raises(AssertionError, match="the bridge was made"):
        bridge_for(ctx, MathProblems(MathProblems.options_model()))
