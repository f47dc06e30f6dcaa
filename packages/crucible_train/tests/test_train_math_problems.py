"""Mathematical problems: their prompts, format, batches, and what is refused."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.grading import Verdict
from crucible_train.renderers import Message, Renderer, get_renderer
from crucible_train.rl import (
    BOX_SUFFIX,
    Grader,
    Problem,
    ProblemDataset,
    ProblemEnv,
    ProblemGroup,
    ProblemRows,
    RLDataset,
    boxed_format,
    strawberry_prefix,
    verdict_of,
)
from crucible_train.types import SampledSequence


@pytest.fixture
def renderer(mini: FileTokenizer) -> Renderer:
    return get_renderer("qwen3_instruct", mini)


def ends_in(gold: str) -> Grader:
    return verdict_of(lambda text: text.endswith(f"\\boxed{{{gold}}}"))


def sums(count: int) -> list[Problem]:
    return [Problem(question=f"{n} + {n}?", answer=str(2 * n)) for n in range(count)]


def dataset(renderer: Renderer, count: int = 7, batch_size: int = 3, **options: object) -> ProblemDataset:
    given_options = {"group_size": 2, "grader_for": ends_in} | options
    return ProblemDataset(
        problems=sums(count),
        renderer=renderer,
        batch_size=batch_size,
        **given_options,  # type: ignore[arg-type]
    )


def envs(problems: ProblemDataset, index: int) -> list[ProblemEnv]:
    groups = problems.get_batch(index)
    assert all(isinstance(group, ProblemGroup) for group in groups)
    return [group.env for group in groups if isinstance(group, ProblemGroup)]


def answered(env: ProblemEnv, text: str) -> tuple[float | None, dict[str, float]]:
    tokens = env.renderer.tokenizer.encode(text, allow_special=True)
    sequence = SampledSequence(tokens=tokens, logprobs=[0.0] * len(tokens), stop_reason="stop")
    result = asyncio.run(env.step(sequence))
    return result.reward, dict(result.metrics)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12))
def test_batches_hold_every_problem_once_in_order_and_the_last_one_what_is_left(
    mini: FileTokenizer, count: int, batch_size: int
) -> None:
    problems = dataset(get_renderer("qwen3_instruct", mini), count, batch_size)
    assert isinstance(problems, RLDataset)
    batches = [envs(problems, index) for index in range(len(problems))]
    assert [env.reference_answer for env in itertools.chain(*batches)] == [str(2 * n) for n in range(count)]
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert len(batches[-1]) == (count - 1) % batch_size + 1


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_batch_beyond_the_last(renderer: Renderer, index: int) -> None:
    with pytest.raises(ConfigError, match=f"batch {index} of 3"):
        dataset(renderer).get_batch(index)


def test_the_prompt_is_the_prefix_and_the_question_with_its_suffix(renderer: Renderer) -> None:
    (env, *_) = envs(dataset(renderer, prefix=strawberry_prefix()), 1)
    prompt, stop = asyncio.run(env.initial_observation())
    expected = [*strawberry_prefix(), Message(role="user", content="3 + 3?" + BOX_SUFFIX)]
    assert prompt.to_ints() == renderer.build_generation_prompt(expected).to_ints()
    assert stop == renderer.stop_sequences
    (bare, *_) = envs(dataset(renderer, suffix=""), 1)
    prompt, _ = asyncio.run(bare.initial_observation())
    assert (
        prompt.to_ints()
        == renderer.build_generation_prompt([Message(role="user", content="3 + 3?")]).to_ints()
    )


def test_a_group_has_as_many_members_as_asked_for_and_the_name_of_its_data(renderer: Renderer) -> None:
    (group, *_) = dataset(renderer, group_size=5, dataset_name="deepmath").get_batch(0)
    assert len(asyncio.run(group.make_envs())) == 5
    assert group.logging_tags() == ["deepmath"]


def test_each_problem_is_judged_by_the_grader_of_its_own_gold_answer(renderer: Renderer) -> None:
    first, second, _ = envs(dataset(renderer), 0)
    end = "<|im_end|>"
    assert answered(first, "\\boxed{0}" + end) == (1.0, {"format": 1.0, "correct": 1.0})
    assert answered(second, "\\boxed{0}" + end) == (0.0, {"format": 1.0, "correct": 0.0})
    assert answered(first, "0" + end) == (-0.1, {"format": 0.0, "correct": 0.0})
    assert answered(first, "\\boxed{0}") == (0.9, {"format": 0.0, "correct": 1.0})


def test_an_answer_that_cannot_be_judged_has_no_reward(renderer: Renderer) -> None:
    async def silent(text: str) -> Verdict:
        return Verdict.CANNOT_JUDGE

    (env, *_) = envs(dataset(renderer, grader_for=lambda gold: silent), 0)
    assert answered(env, "\\boxed{0}<|im_end|>") == (None, {"format": 1.0})


def test_the_format_is_read_as_the_grader_of_the_same_rules_reads_it(renderer: Renderer) -> None:
    stray = "} \\boxed{0}<|im_end|>"  # one brace too many voids the text for cookbook_exact alone
    (careful, *_) = envs(dataset(renderer), 0)
    (exact, *_) = envs(dataset(renderer, rules="cookbook_exact"), 0)
    assert answered(careful, stray) == (1.0, {"format": 1.0, "correct": 1.0})
    assert answered(exact, stray) == (0.9, {"format": 0.0, "correct": 1.0})
    assert (boxed_format()("} \\boxed{0}"), boxed_format("cookbook_exact")("} \\boxed{0}")) == (True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"group_size": -1}, "group_size = -1"),
        ({"format_coef": float("nan")}, "format_coef = nan"),
        ({"format_coef": -0.1}, "format_coef = -0.1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    renderer: Renderer, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset(renderer, **options)  # type: ignore[arg-type]


def test_a_data_set_without_problems_is_refused(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="no problems"):
        dataset(renderer, count=0)


def test_rows_become_problems_when_they_are_asked_for() -> None:
    rows = ProblemRows([{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}, {"problem": "c"}])
    assert len(rows) == 3
    assert rows[1] == rows[-2] == Problem(question="b", answer="2")
    assert rows[:2] == [Problem(question="a", answer="1"), Problem(question="b", answer="2")]
    with pytest.raises(IndexError):
        rows[3]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"problem": "a"}, "'answer' is no text"),
        ({"problem": "a", "answer": 7}, "'answer' is no text"),
        ({"problem": " ", "answer": "7"}, "'problem' is empty"),
        ({"messages": []}, "'problem' is no text"),
    ],
)
def test_a_row_that_is_no_problem_is_named_with_its_place(row: dict[str, object], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        ProblemRows([{"problem": "a", "answer": "1"}, row], label="gsm8k, row")[1]
    assert caught.value.where == "gsm8k, row 2"


@pytest.mark.parametrize("name", ["question", "answer"])
def test_a_problem_needs_a_question_and_an_answer(name: str) -> None:
    with pytest.raises(DataError, match=f"the {name} is empty"):
        Problem(**{"question": "a", "answer": "1", name: " "})
