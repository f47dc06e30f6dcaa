"""Real GSM8K as ``math_rl`` takes it equals tinker-cookbook's: order, prompts, gold answers, rewards of batches."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.data import PROBLEMS
from crucible_cookbook.recipes.math_rl import MathRlConfig
from crucible_datasets import LocalDatasetStore
from crucible_datasets.mapping.problems import answer_after_hashes, answer_in_box
from crucible_ir import DatasetRef
from crucible_kitchen.adapters.math_bridge import MathBridge
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.grading import GradingRules, MathGrader, boxed_answer, gsm8k_answer
from crucible_train.renderers import Renderer, get_renderer
from crucible_train.rl import ProblemDataset, ProblemEnv, ProblemGroup, ProblemRows, strawberry_prefix
from crucible_train.types import SampledSequence

pytestmark = pytest.mark.real

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gsm8k_batches.json").read_text("utf-8"))
HEADER = GOLDEN["header"]
STRAY_BRACE = "} So it is \\boxed{<gold>}.<end>"
"""The one response that the careful rules read otherwise than upstream, whom the brace makes blind to the box."""


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


@pytest.fixture(scope="module")
def bridge() -> Iterator[MathBridge]:
    made = MathBridge(workers=1)
    yield made
    asyncio.run(made.close())


def problems_of(
    shared_data: Path, series: dict[str, Any], bridge: MathBridge, rules: GradingRules = "cookbook_exact"
) -> ProblemDataset:
    """The data that the recipe names as gsm8k, read from files, as the recipe batches them."""
    data = PROBLEMS["gsm8k"].model_copy(
        update={"path": str(shared_data / "datasets" / "gsm8k"), "shuffle_seed": series["seed"]}
    )
    ref = data.train() if series["split"] == "train" else data.held_out()
    assert ref is not None
    tokenizer = FileTokenizer(shared_data / "tokenizers" / series["tokenizer"])
    grader = MathGrader(bridge, rules=rules, timeout_s=60)
    return ProblemDataset(
        problems=ProblemRows(LocalDatasetStore().load(ref).rows),
        renderer=get_renderer(series["renderer"], tokenizer),
        grader_for=grader.for_gold,
        batch_size=series["batch_size"],
        group_size=4 if series["split"] == "train" else 1,
        prefix=strawberry_prefix() if series["few_shot"] else (),
        rules=rules,
    )


def envs_of(dataset: ProblemDataset, index: int) -> list[ProblemEnv]:
    return [group.env for group in dataset.get_batch(index) if isinstance(group, ProblemGroup)]


async def outcome(env: ProblemEnv, renderer: Renderer, response: str) -> tuple[float | None, float]:
    tokens = renderer.tokenizer.encode(response, allow_special=True)
    step = await env.step(SampledSequence(tokens=tokens, logprobs=[0.0] * len(tokens), stop_reason="stop"))
    return None if step.reward is None else round(step.reward, 6), step.metrics["format"]


async def outcomes(
    env: ProblemEnv, series: dict[str, Any], responses: list[str]
) -> list[tuple[float | None, float]]:
    end, eos = HEADER["end"][series["renderer"]], HEADER["eos"][series["tokenizer"]]
    filled = [
        text.replace("<gold>", env.reference_answer).replace("<end>", end).replace("<eos>", eos)
        for text in responses
    ]
    return [await outcome(env, env.renderer, text) for text in filled]


def title(series: dict[str, Any]) -> str:
    shots = "few_shot" if series["few_shot"] else "no_prefix"
    return f"{series['renderer']}-{series['split']}-seed{series['seed']}-{shots}"


def test_the_files_are_those_that_were_recorded(shared_data: Path) -> None:
    folder = shared_data / "datasets" / "gsm8k"
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in HEADER["files"]}
    assert found == HEADER["files"]


@pytest.mark.parametrize("series", GOLDEN["series"], ids=title)
def test_every_recorded_batch_has_upstreams_problems_in_upstreams_order(
    shared_data: Path, series: dict[str, Any], bridge: MathBridge
) -> None:
    dataset = problems_of(shared_data, series, bridge)
    assert len(dataset) == series["length"]
    for batch in series["batches"]:
        envs = envs_of(dataset, batch["index"])
        prompts = [asyncio.run(env.initial_observation())[0].to_ints() for env in envs]
        assert (len(envs), dataset.group_size) == (batch["groups"], batch["members"])
        assert digest(prompts) == batch["prompts"], batch["index"]
        assert digest([env.reference_answer for env in envs]) == batch["answers"], batch["index"]


def test_the_first_fifty_batches_of_the_recipes_size_are_among_them() -> None:
    first = GOLDEN["series"][0]
    assert [batch["index"] for batch in first["batches"]] == [*range(50), first["length"] - 1]
    assert (first["batch_size"], first["seed"], first["few_shot"]) == (100, 0, True)
    assert [len(series["batches"]) for series in GOLDEN["series"]] == [51, 3, 2, 2, 2]
    assert first["batches"][-1]["groups"] == 7473 - 74 * 100


def test_the_recipe_takes_these_problems_in_batches_of_this_size() -> None:
    config = MathRlConfig(model="tiny", env="gsm8k")
    assert config.groups_per_batch == GOLDEN["series"][0]["batch_size"]
    assert config.group_size == GOLDEN["series"][0]["batches"][0]["members"]
    assert config.problems() == (PROBLEMS["gsm8k"].train(), PROBLEMS["gsm8k"].held_out())
    assert config.environment()["env_options"]["fewshot"] is True


@pytest.mark.parametrize("series", GOLDEN["series"], ids=title)
def test_fixed_answers_to_the_first_problem_of_every_batch_earn_upstreams_rewards(
    shared_data: Path, series: dict[str, Any], bridge: MathBridge
) -> None:
    dataset = problems_of(shared_data, series, bridge)
    for batch in series["batches"]:
        env = envs_of(dataset, batch["index"])[0]
        found = asyncio.run(outcomes(env, series, HEADER["responses"]))
        assert [reward for reward, _ in found] == batch["rewards"], batch["index"]
        assert [formatted for _, formatted in found] == batch["formats"], batch["index"]
    assert len(HEADER["responses"]) == 15


def test_the_careful_rules_differ_only_where_upstream_is_blind(shared_data: Path, bridge: MathBridge) -> None:
    series = GOLDEN["series"][0]
    dataset = problems_of(shared_data, series, bridge, "careful")
    for batch in series["batches"][:10]:
        found = asyncio.run(outcomes(envs_of(dataset, batch["index"])[0], series, HEADER["responses"]))
        different = {
            text: (ours, theirs)
            for text, (ours, _), theirs in zip(HEADER["responses"], found, batch["rewards"], strict=True)
            if ours != theirs
        }
        assert different == {STRAY_BRACE: (1.0, -0.1)}, batch["index"]


def test_answers_are_found_in_datasets_as_they_are_found_in_responses(shared_data: Path) -> None:
    load = LocalDatasetStore(base_folder=shared_data / "datasets").load
    sums = load(DatasetRef(id="gsm8k")).rows
    assert [answer_after_hashes(row["answer"]) for row in sums] == [
        gsm8k_answer(row["answer"]) for row in sums
    ]
    maths = load(DatasetRef(id="math500", split="test")).rows
    assert [answer_in_box(row["solution"]) for row in maths] == [
        boxed_answer(row["solution"]) for row in maths
    ]
    assert (len(sums), len(maths)) == (7473, 500)
