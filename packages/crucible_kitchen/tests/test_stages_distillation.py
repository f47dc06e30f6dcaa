"""What distillation is made of: prompts of rows, mixtures of sources, teachers, distances."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import (
    CheckpointRef,
    ConfigError,
    DataError,
    DatasetRef,
    DatasetSnapshot,
    IntegrityError,
    NotFoundError,
)
from crucible_kitchen.environments.environment import Material
from crucible_kitchen.environments.mixture import MixedGroups
from crucible_kitchen.environments.prompts import Prompts, PromptsOptions
from crucible_kitchen.stages.build_prompt_groups import BuildPromptGroups
from crucible_kitchen.stages.build_source_datums import BuildSourceDatums
from crucible_kitchen.stages.keys import (
    ENVIRONMENTS,
    MIXTURE,
    PROVENANCE,
    RENDERER,
    SOURCES,
    TEACHERS,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.load_sources import LoadSources
from crucible_kitchen.stages.load_teachers import LoadTeachers
from crucible_kitchen.stages.sources import Mixture, Source
from crucible_kitchen.stages.teacher import Teacher
from crucible_kitchen.stages.teacher_kl import TeacherKl, score_by_teacher, source_of
from crucible_testing.backend import BigramBackend, BigramSampler, BigramTraining, write_bigram_model
from crucible_testing.bench import StageBench, chat_rows, toy_experiment, write_chats
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_train.ports import BackendCapabilities, TrainingSpec
from crucible_train.renderers import RoleColonRenderer, get_renderer
from crucible_train.rl import EnvGroupBuilder, RLDataset, Trajectory, TrajectoryGroup, Transition
from crucible_train.supervised import batch_indices
from crucible_train.types import Datum, ModelInput, SampledSequence, TensorData

TOKENIZER = ByteTokenizer()


# --- prompts ---------------------------------------------------------------------------------------------------


def turns(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def snapshot(*rows: dict[str, Any]) -> DatasetSnapshot:
    return DatasetSnapshot(ref=DatasetRef(id="some/rows"), rows=rows)


def prompts(
    *rows: dict[str, Any], held_out: Sequence[dict[str, Any]] | None = None, **options: Any
) -> tuple[RLDataset, list[tuple[str, str]]]:
    """The batches, and identity and text of the held-out prompts."""
    made = Prompts(PromptsOptions.parse(options)).build(
        Material(
            renderer=get_renderer("role_colon", TOKENIZER),
            groups_per_batch=2,
            group_size=3,
            seed=0,
            rows=snapshot(*rows),
            held_out=None if held_out is None else snapshot(*held_out),
        )
    )
    return made.train, [(one.example_id, asked(one.builder)) for one in made.held_out]


def asked(builder: EnvGroupBuilder) -> str:
    async def first() -> str:
        envs = await builder.make_envs()
        observations = [await env.initial_observation() for env in envs]
        assert len({observation.to_ints().__repr__() for observation, _ in observations}) == 1
        return TOKENIZER.decode(observations[0][0].to_ints())

    return asyncio.run(first())


def texts(dataset: RLDataset) -> list[list[str]]:
    return [[asked(builder) for builder in dataset.get_batch(n)] for n in range(len(dataset))]


CHAT = turns(("system", "s"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))


def test_the_prompt_is_the_conversation_without_the_turn_it_ends_with() -> None:
    dataset, _ = prompts(CHAT, turns(("user", "alone")), {"problem": "1+1?", "answer": "2"})
    assert texts(dataset) == [
        [
            "System: s\n\nUser: one\n\nAssistant: two\n\nUser: three\n\nAssistant:",
            "User: alone\n\nAssistant:",
        ],
        ["User: 1+1?\n\nAssistant:"],
    ]


def test_the_first_turn_alone_is_upstreams_prompt_of_tulu() -> None:
    assert texts(prompts(CHAT, turn="first")[0]) == [["User: one\n\nAssistant:"]]


@pytest.mark.parametrize(("limit", "kept"), [(None, "abcdef"), (6, "abcdef"), (4, "abcd"), (1, "a")], ids=str)
def test_the_turn_that_is_answered_is_cut_at_so_many_tokens(limit: int | None, kept: str) -> None:
    dataset, _ = prompts(turns(("user", "abcdef")), max_prompt_tokens=limit)
    assert texts(dataset) == [[f"User: {kept}\n\nAssistant:"]]


def test_upstreams_limit_is_the_default() -> None:
    assert PromptsOptions().max_prompt_tokens == 1024


def test_a_group_holds_as_many_answers_as_asked_and_an_answer_is_worth_nothing() -> None:
    (builder,) = prompts(turns(("user", "ab")))[0].get_batch(0)
    envs = asyncio.run(builder.make_envs())  # type: ignore[arg-type]
    assert len(envs) == 3
    action = SampledSequence(tokens=tuple(TOKENIZER.encode("x")), logprobs=(0.0,), stop_reason="length")
    result = asyncio.run(envs[0].step(action))  # type: ignore[arg-type]
    assert (result.reward, result.episode_done, dict(result.metrics)) == (0.0, True, {})
    assert dict(result.logs) == {"question": "ab", "answer": "x"}


def test_held_out_prompts_are_told_apart_by_what_is_asked() -> None:
    _, held_out = prompts(
        CHAT, held_out=[turns(("user", "a"), ("assistant", "1")), turns(("user", "a")), turns(("user", "b"))]
    )
    assert [text for _, text in held_out] == ["User: a\n\nAssistant:", "User: b\n\nAssistant:"]
    assert len({identity for identity, _ in held_out}) == 2


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"text": "x"}, {}, r"some/rows, row 1 .*neither messages nor a problem; it has text"),
        ({}, {}, "it has nothing"),
        ({"problem": "  "}, {}, "neither messages nor a problem; it has problem"),
        ({"messages": []}, {}, "no turn to answer"),
        (turns(("assistant", "hello")), {}, "no turn to answer"),
        (turns(("system", "s"), ("assistant", "hello")), {"turn": "first"}, "no turn of a user"),
    ],
)
def test_a_row_without_a_prompt_is_named_at_once(
    row: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        prompts(CHAT, row, **options)


# --- mixtures --------------------------------------------------------------------------------------------------


def test_a_batch_holds_that_of_every_source_and_each_group_carries_its_name() -> None:
    short, _ = prompts(*(turns(("user", f"a{n}")) for n in range(4)))
    long, _ = prompts(*(turns(("user", f"b{n}")) for n in range(9)))
    mixed = MixedGroups(parts={"one": short, "two": long})
    assert len(mixed) == 2
    batch = mixed.get_batch(1)
    assert [builder.logging_tags() for builder in batch] == [["one"], ["one"], ["two"], ["two"]]
    assert [asked(builder)[6:8] for builder in batch] == ["a2", "a3", "b2", "b3"]
    assert len(MixedGroups(parts={})) == 0


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_one_source_alone_is_ordered_as_in_supervised_training(
    size: int, count: int, epoch: int, drop_last: bool
) -> None:
    mixture = Mixture(sizes=(size,), counts=(count,))
    if drop_last and count > size:
        with pytest.raises(ConfigError, match="a batch of"):
            mixture.per_epoch(drop_last=True)
        return
    expected = batch_indices(size, count, epoch, drop_last=drop_last)
    found = mixture.batches(epoch, drop_last=drop_last)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]
    assert mixture.per_epoch(drop_last=drop_last) == len(expected)


sizes = st.lists(st.tuples(st.integers(4, 30), st.integers(1, 4)), min_size=1, max_size=4)


@given(sizes, st.integers(0, 3))
def test_every_batch_has_each_sources_share_and_no_example_twice(
    parts: list[tuple[int, int]], epoch: int
) -> None:
    mixture = Mixture(sizes=tuple(size for size, _ in parts), counts=tuple(count for _, count in parts))
    batches = mixture.batches(epoch, drop_last=True)
    assert len(batches) == mixture.per_epoch(drop_last=True) == min(size // count for size, count in parts)
    for rows in batches:
        assert [mixture.source_of(int(row)) for row in rows] == [
            source for source, (_, count) in enumerate(parts) for _ in range(count)
        ]
    used = [int(row) for rows in batches for row in rows]
    assert len(set(used)) == len(used)
    assert max(used) < sum(mixture.sizes)


def test_an_example_after_a_source_without_any_belongs_to_the_next() -> None:
    assert [Mixture(sizes=(2, 0, 3), counts=(1, 1, 1)).source_of(n) for n in range(5)] == [0, 0, 2, 2, 2]


# --- teachers --------------------------------------------------------------------------------------------------


class Foreign(ByteTokenizer):
    """Another vocabulary."""

    @property
    def digest(self) -> str:
        return "sha256:" + "f" * 64


class Opened(BigramBackend):
    """Notes what was opened; one model has a tokenizer of its own."""

    def __init__(self, foreign: str = "", **lacking: bool) -> None:
        super().__init__()
        self.foreign = foreign
        self.lacking = lacking
        self.opened: list[str] = []

    def capabilities(self) -> BackendCapabilities:
        return replace(super().capabilities(), **self.lacking)  # type: ignore[arg-type]

    async def load_tokenizer(self, base_model: str) -> ByteTokenizer:
        return Foreign() if base_model == self.foreign else ByteTokenizer()

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> BigramSampler:
        self.opened.append(base_model)
        return await super().create_sampling_client(base_model, weights)

    async def create_training_client(self, spec: TrainingSpec) -> BigramTraining:
        self.opened.append(spec.base_model)
        return await super().create_training_client(spec)


def bench_with(tmp_path: Path, backend: BigramBackend) -> StageBench:
    return StageBench(tmp_path / "run", toy_experiment(tmp_path), adapters={"training_backend": backend})


@pytest.fixture
def other(tmp_path: Path) -> str:
    return str(write_bigram_model(tmp_path / "other", seed=3))


def test_a_teacher_with_another_tokenizer_cannot_score_and_is_refused_before_anything_is_loaded(
    tmp_path: Path, other: str
) -> None:
    backend = Opened(foreign=other)
    bench = bench_with(tmp_path, backend)
    with pytest.raises(
        ConfigError, match=r"another tokenizer than student 'bigram'.*n_teacher_targets=0"
    ) as caught:
        bench.run(LoadTeachers, teachers=[{"model": other}], answers=False, scores=True)
    assert "sha256:ffffffffffff" in str(caught.value)
    assert backend.opened == []
    bench.run(LoadTeachers, teachers=[{"model": other, "renderer": "role_colon"}])  # it may answer
    assert backend.opened == [other]
    bench.close()


def test_a_teacher_that_only_scores_needs_no_chat_format(tmp_path: Path, other: str) -> None:
    bench = bench_with(tmp_path, Opened())
    bench.run(LoadTeachers, teachers=[{"model": other}], answers=False, scores=True)
    (teacher,) = bench[TEACHERS]
    assert teacher.renderer is None
    with pytest.raises(ConfigError, match="opened without a chat format"):
        teacher.speaks()
    bench.close()


def test_what_a_teacher_is_decides_its_digest(tmp_path: Path, other: str) -> None:
    def digest(**teacher: Any) -> str:
        bench = bench_with(tmp_path, Opened())
        bench.run(LoadTeachers, teachers=[{"renderer": "role_colon", **teacher}])
        found = bench[TEACHERS][0].digest
        bench.close()
        return found

    model = str(tmp_path / "model")
    assert digest(model=model) == digest(model=model)
    assert len({digest(model=model), digest(model=other), digest(model=other, renderer="llama3")}) == 3


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"answers": True}, "sampling"),
        ({"answers": False, "scores": True}, "prompt_logprobs"),
        ({"answers": False, "scores": True, "likeliest": 3}, "topk_prompt_logprobs"),
    ],
)
def test_what_the_backend_lacks_is_named_by_the_plan(
    tmp_path: Path, other: str, options: dict[str, Any], lacking: str
) -> None:
    teachers = [{"model": other, "renderer": "role_colon"}]
    has = bench_with(tmp_path, Opened())
    assert has.check(LoadTeachers, teachers=teachers, **options) == []
    (problem,) = bench_with(tmp_path, Opened(**{lacking: False})).check(
        LoadTeachers, teachers=teachers, **options
    )
    assert f"lacks {lacking}," in problem


def test_teachers_are_closed_with_the_run_and_equal_ones_are_one(tmp_path: Path, other: str) -> None:
    bench = bench_with(tmp_path, Opened())
    model = str(tmp_path / "model")
    bench.run(LoadTeachers, teachers=[{"model": m, "renderer": "role_colon"} for m in (other, model, other)])
    first, second, third = bench[TEACHERS]
    assert first is third
    assert first.digest != second.digest
    assert set(bench[PROVENANCE]) == {"teacher", "teacher_1", "teacher_2"}
    bench.close()
    assert first.sampler.closed  # type: ignore[attr-defined]
    assert second.sampler.closed  # type: ignore[attr-defined]


def test_a_resumed_run_takes_no_other_teacher_and_no_other_rows(tmp_path: Path, other: str) -> None:
    bench = bench_with(tmp_path, Opened())
    bench.run(LoadTeachers, teachers=[{"model": other, "renderer": "role_colon"}])
    bench.run(LoadSources, name="a")
    write_bigram_model(Path(other), seed=4)
    with pytest.raises(IntegrityError, match="the teacher is not the one"):
        bench.run(LoadTeachers, teachers=[{"model": other, "renderer": "role_colon"}])
    write_chats(tmp_path / "train.jsonl", chat_rows(16, first=50))
    with pytest.raises(IntegrityError, match="the dataset is not the one"):
        bench.run(LoadSources, name="a")
    bench.close()


# --- sources ---------------------------------------------------------------------------------------------------


def test_rows_of_further_sources_are_checked_and_loaded(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, Opened())
    more = [{"name": "b", "dataset": {"id": write_chats(tmp_path / "b.jsonl", chat_rows(5))}}]
    assert bench.check(LoadSources, name="a", more=more) == []
    bench.run(LoadSources, name="a", more=more)
    assert [(one.name, len(one.rows.rows), one.held_out is None) for one in bench[SOURCES]] == [
        ("a", 16, False),
        ("b", 5, True),
    ]
    assert [data["role"] for data in bench.of("dataset.loaded")] == ["train", "held_out", "train_1"]
    missing = [{"name": "b", "dataset": {"id": str(tmp_path / "none.jsonl"), "source": "file"}}]
    with pytest.raises(NotFoundError, match=r"none\.jsonl"):
        bench.check(LoadSources, name="a", more=missing)
    empty = [{"name": "b", "dataset": {"id": str(tmp_path / "b.jsonl"), "skip": 5}}]
    with pytest.raises(DataError, match="leaves none of the 5 usable rows"):
        bench.run(LoadSources, name="a", more=empty)
    bench.close()


def test_the_share_of_each_source_decides_how_many_steps_an_epoch_has(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, Opened())
    more = [{"name": "b", "dataset": {"id": write_chats(tmp_path / "b.jsonl", chat_rows(5))}}]
    bench.run(LoadSources, name="a", more=more)
    bench[RENDERER] = RoleColonRenderer(TOKENIZER)
    bench.run(BuildSourceDatums, weights=[1, 1])
    assert bench[MIXTURE] == Mixture(sizes=(16, 5), counts=(2, 2))
    assert bench[TOTAL_STEPS] == 2
    bench.close()


def test_a_source_that_holds_no_prompt_is_named(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, Opened())
    bench[RENDERER] = RoleColonRenderer(TOKENIZER)
    bench[SOURCES] = [Source(name="none", rows=snapshot())]
    with pytest.raises(ConfigError, match="source 'none' has no prompt"):
        bench.run(BuildPromptGroups, sources=[{"groups_per_batch": 2}])


@pytest.mark.parametrize(("drop_last", "batches"), [(True, [2, 2]), (False, [2, 2, 1])])
def test_a_partial_batch_of_prompts_is_left_out_where_that_was_asked(
    tmp_path: Path, drop_last: bool, batches: list[int]
) -> None:
    bench = StageBench(
        tmp_path / "run_1_00000000", toy_experiment(tmp_path, drop_last=drop_last), adapters={}
    )
    bench[RENDERER] = RoleColonRenderer(TOKENIZER)
    bench[SOURCES] = [Source(name="a", rows=snapshot(*chat_rows(5)))]
    bench.run(BuildPromptGroups, sources=[{"groups_per_batch": 2}])
    train = bench[ENVIRONMENTS].train
    assert [len(train.get_batch(n)) for n in range(len(train))] == batches


# --- distances -------------------------------------------------------------------------------------------------


def test_sums_of_parts_are_means_over_all_tokens() -> None:
    one = TeacherKl(step=3, parts={}).plus({None: (2.0, 4.0), 0: (2.0, 4.0)})
    both = one.plus({None: (1.0, 2.0), 1: (1.0, 2.0)})
    assert both.metrics() == {
        "teacher_kl": 0.5,
        "teacher_kl/dataset_0": 0.5,
        "teacher_kl/dataset_1": 0.5,
    }
    assert TeacherKl(step=0, parts={None: (0.0, 0.0)}).metrics() == {}


@pytest.fixture
def two_teachers(tmp_path: Path) -> list[Teacher]:
    backend = BigramBackend()

    async def opened(seed: int) -> Teacher:
        model = str(write_bigram_model(tmp_path / f"model{seed}", seed=seed))
        return Teacher(name=model, digest="", sampler=await backend.create_sampling_client(model))

    async def both() -> list[Teacher]:
        return [await opened(0), await opened(1)]

    return asyncio.run(both())


def test_each_datum_is_scored_by_the_teacher_of_its_source(two_teachers: list[Teacher]) -> None:
    def datum(*tokens: int) -> Datum:
        return Datum(
            ModelInput.from_ints(list(tokens[:-1])), {"target_tokens": TensorData.of(list(tokens[1:]))}
        )

    data = [datum(1, 2, 3), datum(4, 5), datum(6, 7, 8)]
    found = asyncio.run(score_by_teacher(two_teachers, data, [1, 0, 1]))

    async def alone(teacher: int, tokens: list[int]) -> list[float | None]:
        return list(await two_teachers[teacher].sampler.compute_logprobs(ModelInput.from_ints(tokens)))[1:]

    expected = [
        asyncio.run(alone(1, [1, 2, 3])),
        asyncio.run(alone(0, [4, 5])),
        asyncio.run(alone(1, [6, 7, 8])),
    ]
    for scores, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(scores, np.float32(known))
    assert asyncio.run(score_by_teacher(two_teachers, [], [])) == []


def test_a_group_is_known_by_the_name_of_its_source() -> None:
    turn = Transition(
        observation=ModelInput.from_ints([1]),
        action=SampledSequence(tokens=(2,), logprobs=(-1.0,), stop_reason="stop"),
        reward=0.0,
    )
    sources = [Source(name=name, rows=snapshot()) for name in ("a", "b")]
    group = TrajectoryGroup(
        trajectories=(Trajectory(transitions=(turn,)),), final_rewards=(0.0,), metrics=({},), tags=("b",)
    )
    assert source_of(group, sources) == 1
