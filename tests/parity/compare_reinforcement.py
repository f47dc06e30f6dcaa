"""Trajectories, advantages, constant groups, metrics, divergences, order, environments."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import EQUAL, REFUSED, Ledger
from sides import (
    Group,
    Scorer,
    Turn,
    both,
    chunks_of,
    close,
    our_group,
    our_trajectory,
    tensors_of,
    their_datum,
    their_group,
    their_trajectory,
)
from strategies import answers
from tinker_cookbook.distillation import train_on_policy
from tinker_cookbook.recipes.math_rl import arithmetic_env as their_arithmetic
from tinker_cookbook.recipes.math_rl import math_env as their_math
from tinker_cookbook.rl import data_processing, dataset_utils, interleaved, metric_util, metrics
from tinker_cookbook.utils.misc_utils import split_list as their_split_list

from crucible_ir.errors import CrucibleError
from crucible_kitchen.adapters.math_functions import cookbook_exact
from crucible_train.distillation import incorporate_teacher_kl
from crucible_train.grading import cookbook_boxed_answer
from crucible_train.renderers import Message
from crucible_train.rl import (
    ProblemEnv,
    arithmetic_env,
    assemble_training_data,
    compute_advantages,
    cycle_permutation,
    discounted_future_sum,
    epoch_batch_index,
    incorporate_kl_penalty,
    interleaved_schedule,
    kl_sample_train,
    operands,
    post_kl,
    remove_constant_reward_groups,
    scored_input,
    split_list,
    target_logprobs,
    trajectory_metrics,
    trajectory_to_data,
    verdict_of,
)
from crucible_train.types import Datum, ModelInput, SampledSequence, TensorData

NOTHING = "nothing sampled"
floats = st.floats(-4, 0, width=32)
rewards = st.sampled_from((0.0, 1.0, 0.5, -0.1, 0.9)) | st.floats(-2, 2, width=32)
tokens = st.integers(0, 30)


# --- trajectories ------------------------------------------------------------------------------------------


@st.composite
def trajectories(draw: st.DrawFn, *, images: bool = True) -> list[Turn]:
    """Turns that mostly go on from what was read and sampled, and sometimes begin anew or leave it."""
    turns: list[Turn] = []
    seen: list[Any] = []
    for _ in range(draw(st.integers(1, 4))):
        more = draw(st.lists(tokens, max_size=4))
        picture = draw(st.integers(1, 3)) if images and draw(st.integers(0, 7)) == 0 else None
        added = [more[:2], picture, more[2:]] if picture else [more]
        added = [chunk for chunk in added if chunk]
        start = draw(st.sampled_from(("goes on", "goes on", "goes on", "anew", "leaves")))
        if start == "goes on":
            observed = [*seen, *added]
        elif start == "leaves" and seen and isinstance(seen[0], list):
            observed = [[*seen[0][:-1], 31], *added]
        else:
            observed = added
        sampled = draw(st.lists(tokens, max_size=4))
        turns.append(
            {
                "observed": observed,
                "sampled": sampled,
                "logprobs": draw(st.lists(floats, min_size=len(sampled), max_size=len(sampled))),
                "reward": draw(rewards),
                "masked": draw(st.integers(0, 4)) == 0,
                "cached": draw(st.integers(0, 5)),
                "metrics": draw(st.dictionaries(st.sampled_from(("correct", "format")), rewards, max_size=2)),
            }
        )
        seen = [*observed, sampled] if sampled else list(observed)
    return turns


def attempt(compute: Callable[[], Any]) -> Any:
    """What comes of it, or the exception that refuses."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 - whatever its class, it is a refusal
        return error


def judge_data(turns: list[Turn], ours: Any, theirs: Any) -> str:
    ends_in_silence = any(not turn["sampled"] for turn in turns)
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        if isinstance(ours, CrucibleError) and isinstance(theirs, Exception):
            return REFUSED
        image_last = "last chunk must be a text chunk" in str(theirs)
        if image_last and not isinstance(ours, Exception) and ends_in_silence:
            return NOTHING
        return f"{ours!r} and not {theirs!r}"
    if len(ours) != len(theirs):
        return f"{len(ours)} datums and not {len(theirs)}"
    retyped = False
    for one, other in zip(ours, theirs, strict=True):
        if chunks_of(one.model_input) != chunks_of(other.model_input):
            return f"{chunks_of(one.model_input)} and not {chunks_of(other.model_input)}"
        mine, yours = tensors_of(one), tensors_of(other)
        if mine.keys() != yours.keys():
            return f"{list(mine)} and not {list(yours)}"
        for name in mine:
            if mine[name][1] != yours[name][1] or not close(mine[name][2], yours[name][2]):
                return f"{name}: {mine[name]} and not {yours[name]}"
            if mine[name][0] != yours[name][0]:
                if name != "advantages" or yours[name][0] != "int64" or np.any(yours[name][2]):
                    return f"{name}: {mine[name]} and not {yours[name]}"
                retyped = True
    return NOTHING if retyped else EQUAL


def test_a_generated_trajectory_becomes_the_datums_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=2000)
    @given(trajectories(), st.floats(-2, 2, width=32))
    def check(turns: list[Turn], advantage: float) -> None:
        ours = attempt(lambda: trajectory_to_data(our_trajectory(turns), advantage))
        theirs = attempt(lambda: data_processing.trajectory_to_data(their_trajectory(turns), advantage))
        ledger.note("trajectories to datums", judge_data(turns, ours, theirs), (turns, advantage))

    check()


# --- groups ------------------------------------------------------------------------------------------------


@st.composite
def groups(draw: st.DrawFn, *, images: bool = False) -> Group:
    members = draw(st.lists(trajectories(images=images), min_size=1, max_size=4))
    constant = draw(st.booleans())
    if constant:
        members = [[{**turn, "reward": 0.5} for turn in turns[:1]] for turns in members]
    return {
        "trajectories": members,
        "rewards": [0.0 if constant else draw(rewards) for _ in members],
        "metrics": [
            draw(st.dictionaries(st.sampled_from(("correct", "length")), rewards, max_size=2))
            for _ in members
        ],
        "tags": draw(st.lists(st.sampled_from(("math", "code", "all_of_it")), max_size=2, unique=True)),
    }


def test_advantages_and_the_groups_kept_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=500)
    @given(st.lists(groups(), min_size=1, max_size=4))
    def check(found: list[Group]) -> None:
        ours, theirs = [our_group(group) for group in found], [their_group(group) for group in found]
        mine, yours = compute_advantages(ours), data_processing.compute_advantages(theirs)
        for one, other in zip(mine, yours, strict=True):
            same = close(one, other.numpy(), atol=1e-6)
            ledger.note("group advantages", EQUAL if same else f"{one} and not {other}", found)
        kept = [next(i for i, g in enumerate(ours) if g is k) for k in remove_constant_reward_groups(ours)]
        left = [
            next(i for i, g in enumerate(theirs) if g is k)
            for k in data_processing.remove_constant_reward_groups(theirs)
        ]
        ledger.note("groups of constant reward", EQUAL if kept == left else f"{kept} and not {left}", found)

    check()


def test_groups_are_assembled_in_the_order_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=400)
    @given(st.lists(groups(images=True), min_size=1, max_size=3))
    def check(found: list[Group]) -> None:
        def ours() -> Any:
            mine = [our_group(group) for group in found]
            return assemble_training_data(mine, compute_advantages(mine))

        def theirs() -> Any:
            yours = [their_group(group) for group in found]
            return data_processing.assemble_training_data(yours, data_processing.compute_advantages(yours))

        one, other = attempt(ours), attempt(theirs)
        turns = [turn for group in found for member in group["trajectories"] for turn in member]
        if isinstance(one, Exception) or isinstance(other, Exception):
            verdict = judge_data(turns, one, other)
        else:
            # the centre of float32 rewards may differ in the last digit: compared with theirs' advantages
            yours = [their_group(group) for group in found]
            given_advantages = [a.numpy() for a in data_processing.compute_advantages(yours)]
            data, origins = assemble_training_data([our_group(group) for group in found], given_advantages)
            places = [{"group_idx": p, "traj_idx": g} for p, g in origins]
            verdict = judge_data(turns, data, other[0])
            verdict = verdict if places == other[1] else f"{places} and not {other[1]}"
        ledger.note("assembled batches", verdict, found)

    check()


def test_metrics_of_rollouts_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=300)
    @given(st.lists(groups(), max_size=4))
    def check(found: list[Group]) -> None:
        unmasked = [
            {
                **group,
                "trajectories": [
                    [{**turn, "masked": False} for turn in turns] for turns in group["trajectories"]
                ],
            }
            for group in found
        ]
        ours = trajectory_metrics([our_group(group) for group in unmasked])
        theirs = metric_util.compute_trajectory_metrics(
            [their_group(group) for group in unmasked], [group["tags"] for group in unmasked]
        )
        same = ours.keys() == theirs.keys() and all(
            close(ours[name], theirs[name], rtol=1e-9, atol=1e-9) for name in ours
        )
        ledger.note("metrics of rollouts", EQUAL if same else f"{ours} and not {theirs}", unmasked)

    check()


# --- divergences -------------------------------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn) -> list[tuple[Datum, list[float], int]]:
    """Datums, the log-probability of each target under another policy, and a data set."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 8))
        mask = draw(st.lists(st.sampled_from((0.0, 1.0, 1.0)), min_size=size, max_size=size))
        sampled = [
            m * lp for m, lp in zip(mask, draw(st.lists(floats, min_size=size, max_size=size)), strict=True)
        ]
        advantages = [m * draw(rewards) for m in mask]
        inputs = {
            "target_tokens": TensorData.of(draw(st.lists(tokens, min_size=size, max_size=size))),
            "logprobs": TensorData.of(sampled, "float32"),
            "advantages": TensorData.of(advantages, "float32"),
            "mask": TensorData.of(mask, "float32"),
        }
        datum = Datum(ModelInput.from_ints(draw(st.lists(tokens, min_size=size, max_size=size))), inputs)
        other = draw(st.lists(floats, min_size=size, max_size=size))
        found.append((datum, other, draw(st.integers(0, 2))))
    return found


Scored = list[tuple[Datum, list[float], int]]


def silent(found: Scored) -> bool:
    return not any(datum.loss_fn_inputs["mask"].array.any() for datum, _, _ in found)


def judge_numbers(found: Scored, ours: Any, theirs: Any) -> str:
    """Metrics and advantages alike within float32; where nothing was sampled, ours is NaN and unchanged."""
    (one, mine), (other, yours) = ours, theirs if not isinstance(theirs, Exception) else ({}, [])
    if silent(found):
        unchanged = all(
            close(a, datum.loss_fn_inputs["advantages"].array)
            for a, (datum, _, _) in zip(mine, found, strict=False)
        )
        no_number = all(math.isnan(value) for value in one.values())
        return NOTHING if unchanged and no_number else f"{ours} and not {theirs}"
    same = one.keys() == other.keys() and all(close(one[k], other[k], rtol=2e-5, atol=2e-6) for k in one)
    same = same and len(mine) == len(yours)
    same = same and all(close(a, b, rtol=2e-5, atol=1e-5) for a, b in zip(mine, yours, strict=True))
    return EQUAL if same else f"{ours} and not {theirs}"


def prompts_of(found: Scored) -> list[list[float | None]]:
    return [[None, *other] for _, other, _ in found]


def advantages_of(data: Any) -> list[Any]:
    return [tensors_of(datum)["advantages"][2] for datum in data]


coefficients = st.sampled_from((0.0, 0.1, 1.0, 2.5))
discounts = st.sampled_from((0.0, 0.5, 0.9, 1.0))


def test_penalties_change_advantages_as_upstream_does(ledger: Ledger) -> None:
    @settings(max_examples=1000)
    @given(scored(), coefficients, discounts)
    def check(found: Scored, coef: float, discount: float) -> None:
        data = [datum for datum, _, _ in found]
        prompts = prompts_of(found)
        changed, figures = incorporate_kl_penalty(
            data, [target_logprobs(row) for row in prompts], coef=coef, discount=discount
        )
        theirs_data, scorer = [their_datum(datum) for datum in data], Scorer(prompts)

        def theirs() -> Any:
            got, _ = asyncio.run(metrics.incorporate_kl_penalty(theirs_data, scorer, coef, discount))
            return got, advantages_of(theirs_data)

        verdict = judge_numbers(found, (figures, advantages_of(changed)), attempt(theirs))
        ledger.note("KL penalty and discount", verdict, (found, coef, discount))
        asked = [scored_input(datum).to_ints() for datum in data]
        ledger.note("sequences that are scored", EQUAL if asked == scorer.asked else "differ", found)

    check()


def test_a_teacher_changes_advantages_as_upstream_does(ledger: Ledger) -> None:
    @settings(max_examples=500)
    @given(scored().filter(lambda found: not silent(found)), coefficients, discounts)
    def check(found: Scored, coef: float, discount: float) -> None:
        data, prompts = [datum for datum, _, _ in found], prompts_of(found)
        sets = [dataset for _, _, dataset in found]
        changed, figures = incorporate_teacher_kl(
            data, [target_logprobs(row) for row in prompts], coef=coef, discount=discount, dataset_D=sets
        )
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        theirs_data, scorer = [their_datum(datum) for datum in data], Scorer(prompts)

        def theirs() -> Any:
            clients = [scorer] * len(data)
            got = asyncio.run(
                train_on_policy.incorporate_kl_penalty(theirs_data, clients, sets, coef, discount)
            )
            return got, advantages_of(theirs_data)

        verdict = judge_numbers(found, (known, advantages_of(changed)), attempt(theirs))
        ledger.note("advantages of on-policy distillation", verdict, (found, coef, discount))

    check()


def test_divergences_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=1000)
    @given(scored())
    def check(found: Scored) -> None:
        data, others = [datum for datum, _, _ in found], [np.float32(other) for _, other, _ in found]
        theirs_data = [their_datum(datum) for datum in data]
        training = [torch.tensor(other) for other in others]
        verdict = judge_numbers(
            found,
            (kl_sample_train(data, others), []),
            attempt(lambda: (metrics.compute_kl_sample_train(theirs_data, training), [])),
        )
        ledger.note("KL of sampler and training, entropy", verdict, found)

        def after() -> Any:
            got, _ = asyncio.run(metrics.compute_post_kl(theirs_data, Scorer(prompts_of(found))))
            return got, []

        verdict = judge_numbers(found, (post_kl(data, others), []), attempt(after))
        ledger.note("KL before and after an update", verdict, found)

    check()


def test_discounted_sums_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=600)
    @given(st.lists(st.floats(-3, 3, width=32), max_size=20), st.floats(0, 1))
    def check(values: list[float], discount: float) -> None:
        ours = discounted_future_sum(values, discount)
        theirs = metrics.discounted_future_sum_vectorized(torch.tensor(values, dtype=torch.float64), discount)
        same = close(ours, theirs.float().numpy(), rtol=1e-6, atol=1e-6)
        ledger.note("discounted sums", EQUAL if same else f"{ours} and not {theirs}", (values, discount))

    check()


# --- order -------------------------------------------------------------------------------------------------


class Numbers:
    """A data set of upstream's kind whose groups are their own numbers."""

    def __init__(self, size: int, per_batch: int) -> None:
        self.size, self.per_batch = size, per_batch

    def __len__(self) -> int:
        return -(-self.size // self.per_batch)

    def get_batch(self, index: int) -> list[int]:
        return list(range(self.size))[index * self.per_batch : (index + 1) * self.per_batch]


def test_splits_and_passes_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=1500)
    @given(st.integers(1, 300), st.data())
    def check(size: int, data: st.DataObject) -> None:
        parts = data.draw(st.integers(0, size + 1))
        ours = attempt(lambda: split_list(range(size), parts))
        theirs = attempt(lambda: their_split_list(range(size), parts))
        if isinstance(ours, CrucibleError) and isinstance(theirs, ValueError):
            verdict = REFUSED
        else:
            verdict = EQUAL if ours == theirs else f"{ours} and not {theirs}"
        ledger.note("splits", verdict, (size, parts))
        seed, step = data.draw(st.integers(0, 2**31)), data.draw(st.integers(0, 2000))
        chosen = data.draw(st.none() | st.just(seed))
        same = cycle_permutation(size, seed, step) == list(dataset_utils.cycle_permutation(size, seed, step))
        ledger.note("orders of passes", EQUAL if same else "differ", (size, seed, step))
        same = epoch_batch_index(step, size, chosen) == dataset_utils.epoch_batch_index(step, size, chosen)
        ledger.note("batches of steps", EQUAL if same else "differ", (step, size, chosen))

    check()


def test_mixtures_take_the_groups_of_upstream(ledger: Ledger) -> None:
    source = st.tuples(st.integers(1, 40), st.integers(1, 6), st.sampled_from((0.5, 1.0, 2.0, 0.3)))

    @settings(max_examples=300)
    @given(
        st.lists(source, min_size=1, max_size=3),
        st.integers(1, 8),
        st.none() | st.integers(1, 12),
        st.integers(0, 2**31),
    )
    def check(sources: Any, per_batch: int, total: int | None, seed: int) -> None:
        sizes, weights = [size for size, _, _ in sources], [weight for _, _, weight in sources]
        ours = interleaved_schedule(sizes, weights, per_batch, total, seed)
        theirs = interleaved._InterleavedRLDataset(
            [Numbers(size, per) for size, per, _ in sources], weights, per_batch, total, seed
        )
        same = ours == theirs._schedule
        same = same and [g for _, g in ours[0]] == list(theirs.get_batch(0))
        ledger.note("mixtures of sources", EQUAL if same else "differ", (sources, per_batch, total, seed))

    check()


# --- environments ------------------------------------------------------------------------------------------


ENVIRONMENTS = ("role_colon", "qwen3", "llama3", "qwen3_5_disable_thinking", "gpt_oss_no_sysprompt")


def step_of(ours: ProblemEnv, theirs: Any, sampled: list[int]) -> str:
    """Prompt, stop, reward, metrics and end of one attempt, on both sides."""

    async def both_sides() -> tuple[Any, Any]:
        prompt, stop = await ours.initial_observation()
        their_prompt, their_stop = await theirs.initial_observation()
        result = await ours.step(SampledSequence(tokens=tuple(sampled), stop_reason="stop"))
        their_result = await theirs.step(list(sampled))
        return (
            (prompt.to_ints(), list(stop or ()), result.reward, dict(result.metrics), result.episode_done),
            (
                their_prompt.to_ints(),
                list(their_stop),
                their_result.reward,
                their_result.metrics,
                their_result.episode_done,
            ),
        )

    one, other = asyncio.run(both_sides())
    same = one[:2] == other[:2] and one[3:] == other[3:] and close(one[2], other[2], atol=1e-12)
    return EQUAL if same else f"{one} and not {other}"


def attempt_of(ours: ProblemEnv, theirs: Any, sampled: list[int]) -> str:
    verdict = attempt(lambda: step_of(ours, theirs, sampled))
    if isinstance(verdict, Exception):  # tokens after an end mark: no sampler gives them, and both refuse
        both_refuse = isinstance(verdict, CrucibleError) and isinstance(
            attempt(lambda: asyncio.run(theirs.step(list(sampled)))), Exception
        )
        return REFUSED if both_refuse else repr(verdict)
    return str(verdict)


def test_sums_are_asked_and_rewarded_as_upstream_does(ledger: Ledger, mini_folder: Path) -> None:
    @settings(max_examples=800)
    @given(st.sampled_from(ENVIRONMENTS), st.integers(0, 5000), st.booleans(), st.data())
    def check(name: str, batch: int, strict: bool, data: st.DataObject) -> None:
        side = both(name, mini_folder)
        theirs_set = their_arithmetic.ArithmeticDataset(3, side.theirs, 1)
        made = [builder.env_thunk for builder in theirs_set.get_batch(batch)]
        pairs = [thunk.args[:2] for thunk in made]
        same = operands(batch, 3) == [tuple(map(int, pair)) for pair in pairs]
        ledger.note("operands of sums", EQUAL if same else "differ", batch)
        x, y = operands(batch, 1)[0]
        said = data.draw(
            answers(name) | st.sampled_from((f"{x + y}", f"It is {x + y:,}.", f"-{x + y}", "1,2", ""))
        )
        prefix = tuple(Message(role=m["role"], content=m["content"]) for m in FEWSHOT)
        ours = arithmetic_env(x, y, side.ours, prefix, require_stop_sequence=strict)
        theirs = their_arithmetic.ArithmeticEnv(
            x, y, side.theirs, list(FEWSHOT), require_stop_sequence_for_format=strict
        )
        sampled = side.tokenizer.encode(said, allow_special=True)
        ledger.note("arithmetic environment", attempt_of(ours, theirs, sampled), (name, x, y, said, strict))

    check()


FEWSHOT = their_arithmetic.ArithmeticEnv.standard_fewshot_prefix()
BOXES = (
    "\\boxed{3}",
    "\\boxed{1/2}",
    "\\boxed{\\frac12}",
    "\\boxed 5",
    "\\boxed{",
    "}",
    "so",
    "\\boxed{x+1}",
    "3",
)
GOLDS = ("3", "\\frac{1}{2}", "5", "1+x", "0.5", "")


def exact(gold: str) -> Callable[[str], bool]:
    """Upstream's verdict on a whole text, by our grader: a box, and the answer in it."""

    def check(text: str) -> bool:
        boxed = cookbook_boxed_answer(text)
        return boxed is not None and cookbook_exact(answer=boxed, gold=gold)["verdict"] == "correct"

    return check


def test_problems_are_asked_and_rewarded_as_upstream_does(ledger: Ledger, mini_folder: Path) -> None:
    words = st.lists(st.sampled_from(BOXES), max_size=4).map(" ".join)

    @settings(max_examples=500)
    @given(st.sampled_from(ENVIRONMENTS), words, st.sampled_from(GOLDS), st.booleans(), st.booleans())
    def check(name: str, said: str, gold: str, strict: bool, ended: bool) -> None:
        side = both(name, mini_folder)
        prefix = their_math.MathEnv.standard_fewshot_prefix()
        theirs = their_math.MathEnv(
            "What is it?", gold, side.theirs, prefix, require_stop_sequence_for_format=strict
        )
        theirs_prompt = "What is it?" + their_math.MathEnv.question_suffix()
        ours = ProblemEnv(
            question=theirs_prompt,
            renderer=side.ours,
            grader=verdict_of(exact(gold)),
            check_format=lambda text: cookbook_boxed_answer(text) is not None,
            prefix=tuple(Message(role=m["role"], content=m["content"]) for m in prefix),
            require_stop_sequence=strict,
        )
        stop = side.ours.stop_sequences[0]
        end = stop if isinstance(stop, str) else side.tokenizer.decode([stop])
        sampled = side.tokenizer.encode(said + (end if ended else ""), allow_special=True)
        ledger.note("math environment", attempt_of(ours, theirs, sampled), (name, said, gold, strict, ended))

    check()
