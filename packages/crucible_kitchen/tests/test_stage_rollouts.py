"""The rollout pool, its samplers, and the stages of reinforcement learning one at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, DataError, DatasetRef, ServiceError, TrainError
from crucible_kitchen.environments.environment import Environments, HeldOutProblem, Material
from crucible_kitchen.stages.begin_iteration import BeginIteration
from crucible_kitchen.stages.build_env_group import BuildEnvGroup
from crucible_kitchen.stages.compute_advantages import ComputeAdvantages
from crucible_kitchen.stages.evaluate_rollouts import EvaluateRollouts
from crucible_kitchen.stages.forward_backward_pairs import ForwardBackwardPairs
from crucible_kitchen.stages.init_session import InitSession
from crucible_kitchen.stages.init_tokenizer import InitTokenizer
from crucible_kitchen.stages.keys import (
    BATCH,
    ENVIRONMENTS,
    GROUPS,
    ITERATIONS,
    MINIBATCHES,
    PENDING_METRICS,
    RENDERER,
    ROLLED,
    ROLLOUT_DATA,
    SAMPLER,
    SUBSTEPS,
    TOTAL_STEPS,
    TRAINED,
    UPDATES,
)
from crucible_kitchen.stages.load_reference import LoadReference
from crucible_kitchen.stages.measure_post_kl import MeasurePostKl
from crucible_kitchen.stages.no_dataset import NoDataset
from crucible_kitchen.stages.open_rollouts import OpenRollouts
from crucible_kitchen.stages.penalize_kl import PenalizeKl
from crucible_kitchen.stages.prepare_update import PrepareUpdate
from crucible_kitchen.stages.rollout import Rollout
from crucible_kitchen.stages.rollouts import (
    FailedGroup,
    RolledGroup,
    RolloutPool,
    RolloutSettings,
    policy,
)
from crucible_kitchen.stages.sample_texts import SampleTexts
from crucible_kitchen.stages.sampler import FreshSampler
from crucible_kitchen.stages.split_updates import SplitUpdates
from crucible_testing.bench import StageBench, plant_bigram
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_testing.letter_runs import letters_experiment
from crucible_testing.letters import LetterBatches, LettersOptions
from crucible_train.ports import Handle
from crucible_train.renderers import get_renderer
from crucible_train.rl import EnvGroupBuilder, RLDataset
from crucible_train.seeds import generator
from crucible_train.types import (
    Datum,
    ModelInput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
)

RENDERER_OF_BYTES = get_renderer("role_colon", ByteTokenizer())


class PlainSampler:
    """Says what its seed says; may wait for ever, or fail, so many times."""

    def __init__(self, *, hangs: int = 0, failures: int = 0) -> None:
        self.asked: list[SamplingParams] = []
        self.closed = 0
        self.hangs = hangs
        self.failures = failures

    def sample(self, prompt: ModelInput, params: SamplingParams, **_: Any) -> Any:
        self.asked.append(params)
        if self.hangs:
            self.hangs -= 1
            return asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise ServiceError(what="not now", where="sample", retryable=True)
        token = (params.seed or 0) % 200
        sequence = SampledSequence(tokens=(token, token), logprobs=(-1.0, -1.0), stop_reason="length")
        return Handle.completed(SampleResponse(sequences=(sequence,)))

    async def close(self) -> None:
        self.closed += 1


class Session:
    """Opens plain samplers."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.opened: list[PlainSampler] = []

    async def sampling_client(self) -> PlainSampler:
        self.opened.append(PlainSampler(**self.options))
        return self.opened[-1]

    def closed(self) -> list[int]:
        """How often each sampler was closed."""
        return [sampler.closed for sampler in self.opened]


def letters(groups: int = 3, **options: Any) -> RLDataset:
    material = Material(renderer=RENDERER_OF_BYTES, groups_per_batch=groups, group_size=2, seed=0)
    return LetterBatches(options=LettersOptions.parse(options), material=material, judge=None)


def pool_of(
    session: Session, *, total: int = 4, dataset: RLDataset | None = None, **settings: Any
) -> RolloutPool:
    return RolloutPool(
        letters() if dataset is None else dataset,
        FreshSampler(session),  # type: ignore[arg-type]
        RolloutSettings(max_tokens=2, **settings),
        rng=lambda purpose, step: generator(0, purpose, step),
        total=total,
    )


def tokens_of(found: Sequence[RolledGroup | FailedGroup]) -> list[list[tuple[int, ...]]]:
    return [
        [tuple(turn.action.tokens) for one in rolled.group.trajectories for turn in one.transitions]
        for rolled in found
        if isinstance(rolled, RolledGroup)
    ]


# --- samplers --------------------------------------------------------------------------------------------------


def test_a_version_of_the_weights_is_opened_once_and_shared() -> None:
    async def main() -> None:
        session = Session()
        sampler = FreshSampler(session)  # type: ignore[arg-type]
        assert await sampler.take(0) is await sampler.take(0)
        assert await sampler.take(1) is not session.opened[0]
        assert len(session.opened) == 2

    asyncio.run(main())


def test_an_older_sampler_is_closed_when_its_last_holder_gives_it_back() -> None:
    async def main() -> None:
        session = Session()
        sampler = FreshSampler(session)  # type: ignore[arg-type]
        for version in (0, 0, 1):
            await sampler.take(version)
        assert session.closed() == [0, 0]
        await sampler.give_back(0)
        assert session.closed() == [0, 0]
        await sampler.give_back(0)
        assert session.closed() == [1, 0]
        await sampler.give_back(1)
        assert session.closed() == [1, 0]  # the newest waits for the next who asks
        await sampler.take(2)
        assert session.closed() == [1, 1, 0]

    asyncio.run(main())


def test_closing_closes_also_what_is_held_and_twice_is_harmless() -> None:
    async def main() -> None:
        session = Session()
        sampler = FreshSampler(session)  # type: ignore[arg-type]
        for version in (0, 1):
            await sampler.take(version)
        await sampler.aclose()
        await sampler.aclose()
        assert session.closed() == [1, 1]

    asyncio.run(main())


def test_every_answer_is_drawn_with_a_seed_of_its_own() -> None:
    sampler = PlainSampler()
    settings = RolloutSettings(max_tokens=7, temperature=0.5)

    async def main() -> None:
        complete = policy(sampler, settings, generator(0, "x"))  # type: ignore[arg-type]
        for _ in range(3):
            await complete(ModelInput.from_ints([1]), ("stop",))

    asyncio.run(main())
    assert {(p.max_tokens, p.temperature, p.stop) for p in sampler.asked} == {(7, 0.5, ("stop",))}
    assert len({p.seed for p in sampler.asked}) == 3


# --- the pool --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_is_drawn_depends_on_batch_group_and_place_alone(ahead: int) -> None:
    async def main() -> list[Any]:
        pool = pool_of(Session(), ahead=ahead)
        return [tokens_of(await pool.groups(step)) for step in range(4)]

    drawn = asyncio.run(main())
    assert drawn == asyncio.run(main())
    last = asyncio.run(pool_of(Session()).groups(3))
    assert tokens_of(last) == drawn[3]
    flat = [tokens for batch in drawn for group in batch for tokens in group]
    assert len(set(flat)) > len(flat) / 2


@pytest.mark.parametrize(("ahead", "versions"), [(0, [0, 1, 2, 3]), (1, [0, 0, 1, 2]), (5, [0, 0, 0, 0])])
def test_a_batch_is_sampled_with_the_weights_of_so_many_iterations_ago(
    ahead: int, versions: list[int]
) -> None:
    session = Session()

    async def main() -> list[int]:
        pool = pool_of(session, ahead=ahead)
        found = []
        for step in range(4):
            found.append(await pool.groups(step))
            await pool.release(step)
        await pool.aclose()
        return [one.version for batch in found for one in batch[:1] if isinstance(one, RolledGroup)]

    assert asyncio.run(main()) == versions
    assert len(session.opened) == len(set(versions))
    assert session.closed()[:-1] == [1] * (len(session.opened) - 1)


def test_batches_under_way_after_a_resume_begin_with_its_weights() -> None:
    session = Session()

    async def main() -> list[int]:
        pool = pool_of(session, ahead=1)
        return [
            one.version
            for step in (2, 3)
            for one in (await pool.groups(step))[:1]
            if isinstance(one, RolledGroup)
        ]

    assert asyncio.run(main()) == [2, 2]


def test_parts_are_neighbouring_shares_of_the_groups() -> None:
    async def main() -> list[list[list[tuple[int, ...]]]]:
        pool = pool_of(Session(), dataset=letters(5))
        return [tokens_of(await pool.groups(0, part=part, parts=3)) for part in range(3)]

    parts = asyncio.run(main())
    assert [len(part) for part in parts] == [1, 2, 2]
    whole = asyncio.run(pool_of(Session(), dataset=letters(5)).groups(0))
    assert [group for part in parts for group in part] == tokens_of(whole)


def test_a_group_that_failed_begins_anew_with_its_seeds_when_it_is_asked_for_again() -> None:
    session = Session(failures=1)

    async def main() -> list[list[tuple[int, ...]]]:
        pool = pool_of(session)
        with pytest.raises(ServiceError, match="not now"):
            await pool.groups(0)
        return tokens_of(await pool.groups(0))

    assert asyncio.run(main()) == tokens_of(asyncio.run(pool_of(Session()).groups(0)))
    assert len(session.opened) == 1


def test_a_group_that_failed_and_was_left_out_begins_anew_until_its_batch_is_released() -> None:
    session = Session(failures=1)

    async def main() -> list[list[tuple[int, ...]]]:
        pool = pool_of(session, drop_failed=True)
        assert any(isinstance(one, FailedGroup) for one in await pool.groups(0))
        again = tokens_of(await pool.groups(0))
        await pool.release(0)
        await pool.groups(1)
        return again

    assert asyncio.run(main()) == tokens_of(asyncio.run(pool_of(Session()).groups(0)))
    assert session.closed() == [1, 0]


def test_a_group_that_was_cancelled_while_it_was_awaited_begins_anew_when_it_is_asked_for_again() -> None:
    session = Session(hangs=2)

    async def main() -> list[list[tuple[int, ...]]]:
        pool = pool_of(session)
        waiting = asyncio.create_task(pool.groups(0))
        while not session.opened or len(session.opened[0].asked) < 3 * 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return tokens_of(await pool.groups(0))

    assert asyncio.run(main()) == tokens_of(asyncio.run(pool_of(Session()).groups(0)))


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_no_number_is_an_error_of_its_group(
    monkeypatch: pytest.MonkeyPatch, reward: float
) -> None:
    async def rewards(self: Any, trajectories: Any, envs: Any) -> list[tuple[float, dict[str, float]]]:
        return [(0.0, {}), (reward, {})]

    monkeypatch.setattr("crucible_testing.letters.LetterGroup.compute_group_rewards", rewards)
    with pytest.raises(DataError, match=f"LetterGroup: the reward of member 1 is {reward}"):
        asyncio.run(pool_of(Session()).groups(0))


def test_groups_that_fail_are_left_out_where_that_was_asked() -> None:
    dataset = letters(3, fails={"0": "ours", "2": "other"})

    async def main() -> list[RolledGroup | FailedGroup]:
        return await pool_of(Session(), dataset=dataset, drop_failed=True).groups(0)

    first, second, third = asyncio.run(main())
    assert isinstance(first, FailedGroup)
    assert isinstance(first.error, DataError)
    assert isinstance(second, RolledGroup)
    assert isinstance(third, FailedGroup)
    assert isinstance(third.error, TrainError)
    assert isinstance(third.error.__cause__, KeyError)


def test_closing_the_pool_cancels_what_is_under_way() -> None:
    async def main() -> None:
        session = Session(hangs=100)
        pool = pool_of(session, ahead=2)
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(pool.groups(0))
        while len(session.opened) < 1 or len(session.opened[0].asked) < 3 * 3 * 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pool.aclose()
        await pool.aclose()
        assert asyncio.all_tasks() == before

    asyncio.run(main())


# --- stages ----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return tmp_path


def bench_of(site: Path, env: dict[str, Any] | None = None, **settings: Any) -> StageBench:
    """A bench right before the first iteration."""
    chosen = {"batches": 3, "held_out": 2} | (env or {})
    bench = StageBench(site / "run_1_00000000", letters_experiment(site, **settings))
    bench.run(NoDataset)
    bench.run(InitSession)
    bench.run(InitTokenizer, renderer="role_colon")
    bench.run(BuildEnvGroup, env="plain_letters", env_options=chosen, group_size=2)
    bench.run(OpenRollouts, max_tokens=2)
    return bench


def rolled_out(bench: StageBench) -> StageBench:
    """The bench after the rollouts of its first iteration and their advantages."""
    bench.run(BeginIteration)
    bench.run(Rollout)
    bench.run(ComputeAdvantages)
    return bench


@pytest.mark.parametrize(
    ("training", "total"), [({}, 3), ({"epochs": 2}, 6), ({"epochs": 2, "max_steps": 5}, 5)]
)
def test_there_is_an_iteration_per_batch_and_epoch_up_to_a_limit(
    site: Path, training: dict[str, Any], total: int
) -> None:
    bench = bench_of(site, **training)
    assert bench[ITERATIONS] == bench[TOTAL_STEPS] == total
    assert bench.of("run.progress") == [
        {
            "total_steps": total,
            "epochs": training.get("epochs", 1),
            "groups_per_batch": 4,
            "group_size": 2,
            "held_out": 2,
        }
    ]


@pytest.mark.parametrize(
    ("problems", "drop_last", "batches"), [(8, True, [4, 4]), (9, True, [4, 4]), (9, False, [4, 4, 1])]
)
def test_a_partial_batch_at_the_end_is_left_out_where_that_was_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, problems: int, drop_last: bool, batches: list[int]
) -> None:
    def build(self: Any, material: Material) -> Environments:
        return Environments(train=Uneven(problems, material.groups_per_batch))

    monkeypatch.setattr("crucible_testing.letters.Letters.build", build)
    bench = bench_of(site, drop_last=drop_last)
    train = bench[ENVIRONMENTS].train
    assert [len(train.get_batch(n)) for n in range(len(train))] == batches
    assert bench[ITERATIONS] == len(batches)
    bench.close()


def test_fewer_problems_than_a_whole_batch_are_none(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crucible_testing.letters.Letters.build", lambda *_: Environments(train=Uneven(3, 4)))
    with pytest.raises(ConfigError, match="no batch of 4 problems to train on"):
        bench_of(site, drop_last=True)


class Uneven:
    """So many groups, the last batch perhaps a part of one."""

    def __init__(self, groups: int, size: int) -> None:
        self.groups = list(letters(groups).get_batch(0))
        self.size = size

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        return self.groups[index * self.size : (index + 1) * self.size]

    def __len__(self) -> int:
        return -(-len(self.groups) // self.size)


def test_an_environment_that_takes_rows_needs_a_dataset(site: Path) -> None:
    bench = StageBench(
        site / "run_1_00000000", letters_experiment(site), adapters={"python_bridge": object()}
    )
    (problem,) = bench.check(BuildEnvGroup, env="math")
    assert problem.startswith("dataset: environment 'math' takes its problems from a dataset")
    named = letters_experiment(site).model_copy(update={"dataset": DatasetRef(id="some/rows")})
    bench = StageBench(site / "run_1_00000000", named, adapters={"python_bridge": object()})
    assert bench.check(BuildEnvGroup, env="math") == []


def test_held_out_problems_of_one_identity_are_tried_once(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(self: Any, material: Material) -> Environments:
        batches = letters(4)
        builder = batches.get_batch(0)[0]
        problems = [HeldOutProblem(example_id=name, builder=builder) for name in ("a", "b", "a", "c", "b")]
        return Environments(train=batches, held_out=problems)

    monkeypatch.setattr("crucible_testing.letters.Letters.build", build)
    bench = bench_of(site)
    assert [problem.example_id for problem in bench[ENVIRONMENTS].held_out] == ["a", "b", "c"]
    (said,) = bench.of("log")
    assert said["message"] == "2 held-out problems stand there again and are tried once"


def test_a_held_out_problem_that_makes_several_attempts_is_refused(site: Path) -> None:
    bench = bench_of(site)
    several = HeldOutProblem(example_id="pair", builder=letters().get_batch(0)[0])
    bench[ENVIRONMENTS] = replace(bench[ENVIRONMENTS], held_out=[several])
    with pytest.raises(DataError, match="2 attempts at the held-out problem pair"):
        bench.run(EvaluateRollouts, max_tokens=2)
    bench.close()


def test_an_iteration_opens_with_nothing_rolled_out_and_its_parts(site: Path) -> None:
    bench = bench_of(site)
    bench[ROLLED] = [object()]
    bench.run(BeginIteration, substeps=3, minibatches=2)
    assert (bench[ROLLED], bench[TRAINED], bench[SUBSTEPS], bench[MINIBATCHES]) == ([], [], 3, 2)
    bench.close()


def test_advantages_are_rewards_less_the_mean_of_their_group(site: Path) -> None:
    bench = rolled_out(bench_of(site))
    groups = [found.group for found in bench[GROUPS] if isinstance(found, RolledGroup)]
    places = [(g, m) for g in range(4) for m in range(2)]
    for (g, m), datum in zip(places, bench[ROLLOUT_DATA], strict=True):
        rewards = groups[g].total_rewards()
        expected = np.float32(rewards[m]) - np.mean(rewards, dtype=np.float32)
        advantages, mask = (datum.loss_fn_inputs[name].array for name in ("advantages", "mask"))
        assert advantages.tolist() == pytest.approx((mask * expected).tolist())
        assert mask.sum() == 2
    bench.close()


@pytest.mark.parametrize(
    ("loss", "config", "more"),
    [("ppo", {}, set()), ("dro", {"beta": 0.1}, {"mask"}), ("gspo", {}, {"sequence_ratio_mask"})],
)
def test_a_loss_is_given_what_it_reads(
    site: Path, loss: str, config: dict[str, float], more: set[str]
) -> None:
    bench = rolled_out(bench_of(site, loss=loss, loss_config=config))
    bench.run(SplitUpdates, num_substeps=2)
    assert [len(part) for part in bench[UPDATES]] == [4, 4]
    bench.turn("updates", 1, bench[UPDATES][1])
    bench.run(PrepareUpdate)
    assert {frozenset(datum.loss_fn_inputs) for datum in bench[BATCH]} == {
        frozenset({"target_tokens", "logprobs", "advantages"} | more)
    }
    assert bench[TRAINED] == bench[UPDATES][1]
    bench.close()


def drifted(datum: Datum, by: float) -> Datum:
    """As if the sampler had liked its tokens more, by so many nats."""
    inputs = datum.loss_fn_inputs
    logprobs = inputs["logprobs"].array + np.float32(by) * inputs["mask"].array
    return Datum(datum.model_input, {**inputs, "logprobs": TensorData(logprobs)})


def test_the_row_has_the_divergence_from_the_base_over_all_parts_of_an_iteration(site: Path) -> None:
    bench = rolled_out(bench_of(site))
    data = [drifted(datum, by) for by, datum in enumerate(bench[ROLLOUT_DATA])]
    bench.run(LoadReference)
    for start, end in ((0, 3), (3, 8)):
        bench[ROLLOUT_DATA] = data[start:end]
        bench.run(PenalizeKl, coef=1.0)
        advantages = [datum.loss_fn_inputs["advantages"].array for datum in bench[ROLLOUT_DATA]]
        assert sum(float(array.sum()) for array in advantages) == pytest.approx(
            sum(float(datum.loss_fn_inputs["advantages"].array.sum()) for datum in data[start:end]), abs=1e-4
        )
        bench[TRAINED] = [*bench[TRAINED], *data[start:end]]
    assert bench[PENDING_METRICS]["kl_policy_base"] == pytest.approx(np.mean(range(8)), abs=1e-5)
    bench.close()


def test_without_data_nothing_is_scored(site: Path) -> None:
    bench = rolled_out(bench_of(site))
    bench[ROLLOUT_DATA], bench[TRAINED] = [], []
    bench.run(LoadReference)
    before = len(bench.backend.journal)
    bench.run(PenalizeKl, coef=1.0)
    bench.run(MeasurePostKl)
    bench.run(SplitUpdates, num_substeps=3)
    assert bench[UPDATES] == []
    assert bench[PENDING_METRICS] == {}
    assert bench.backend.journal[before:] == []
    bench.close()


@pytest.mark.parametrize(
    ("stage", "lacking", "said"),
    [
        (OpenRollouts, "sampling", "backend 'bigram' lacks sampling, which is asked of rollouts"),
        (
            LoadReference,
            "prompt_logprobs",
            "lacks prompt_logprobs, which is asked of the KL penalty",
        ),
        (SampleTexts, "sampling", "lacks sampling, which is asked of held-out prompts"),
        (ForwardBackwardPairs, "custom_loss", "lacks custom_loss, which is asked of preference training"),
    ],
)
def test_a_backend_that_cannot_is_found_out_before_the_run(
    site: Path, stage: type[Any], lacking: str, said: str
) -> None:
    bench = StageBench(site / "run_1_00000000", letters_experiment(site))
    assert bench.check(stage) == []
    less = replace(bench.backend.capabilities(), **{lacking: False})
    bench.backend.capabilities = lambda: less  # type: ignore[method-assign]
    (problem,) = bench.check(stage)
    assert said in problem


def test_what_rollouts_opened_is_closed_with_the_run(site: Path) -> None:
    bench = rolled_out(bench_of(site))
    sampler = asyncio.run(bench[SAMPLER].take(0))
    assert not sampler.closed
    bench.close()
    assert sampler.closed
    assert bench.backend.clients[0].closed
    assert bench[RENDERER].name == "role_colon"
