"""Listed defects of workflows, where no other test names the claim; docs/defects.md says where each one is held."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import (
    CheckpointRef,
    ConfigError,
    DatasetRef,
    DatasetSnapshot,
    Experiment,
    ScheduleSpec,
    ServiceError,
)
from crucible_kitchen.api import Crucible
from crucible_kitchen.stages.build_comparisons import BuildComparisons
from crucible_kitchen.stages.build_datums import BuildDatums
from crucible_kitchen.stages.keys import (
    DATASET,
    EVAL_DATASET,
    EXAMPLES,
    PROVENANCE,
    RENDERER,
    SOURCES,
    TEACHERS,
)
from crucible_kitchen.stages.load_sources import LoadSources
from crucible_kitchen.stages.load_teachers import LoadTeachers
from crucible_kitchen.stages.sample_teacher import SampleTeacher
from crucible_kitchen.workflows.distillation import DistillationOptions, distillation
from crucible_kitchen.workflows.preference import PreferenceOptions, preference
from crucible_testing.backend import BigramBackend, BigramSampler, BigramTraining, write_bigram_model
from crucible_testing.bench import StageBench, plant_bigram, toy_experiment
from crucible_testing.byte_tokenizer import END, ByteTokenizer
from crucible_train.ports import Handle
from crucible_train.renderers import RoleColonRenderer
from crucible_train.schedules import lr_multiplier
from crucible_train.types import Datum, ModelInput, SampleResponse, SamplingParams

RATE = 0.2
WORKFLOWS = ["supervised", "preference", "distillation"]
Make = Callable[..., Experiment]


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a small experiment of any workflow: 16 rows or pairs, batches of 4."""

    def make(workflow: str, **changes: Any) -> Experiment:
        plain = toy_experiment(tmp_path, learning_rate=RATE, **changes)
        if workflow == "supervised":
            return plain
        if workflow == "preference":
            rows = [
                {
                    "prompt": [{"role": "user", "content": f"q{n}"}],
                    "chosen": "abab",
                    "rejected": "bb" + "b" * n,
                }
                for n in range(16)
            ]
            path = tmp_path / "pairs.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            data = DatasetRef(id=str(path), mapping={"schema": "auto"})
            nodes = preference(PreferenceOptions(renderer="role_colon"))
            changed: dict[str, Any] = {"pipeline": nodes, "dataset": data, "eval_dataset": data}
        else:
            assert plain.model is not None
            options = DistillationOptions(
                renderer="role_colon",
                teacher=plain.model.uri or "",
                teacher_renderer="role_colon",
                teacher_max_tokens=4,
                sample_prompts=0,
            )
            changed = {"pipeline": distillation(options)}
        return plain.model_copy(update={**changed, "workflow": workflow})

    return make


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """Tokens of every batch that is submitted for training, in order."""
    seen: list[list[tuple[int, ...]]] = []

    def noted(name: str) -> None:
        plain = getattr(BigramTraining, name)

        def submit(self: BigramTraining, data: Sequence[Datum], *rest: Any) -> Any:
            seen.append([tuple(datum.model_input.to_ints()) for datum in data])
            return plain(self, data, *rest)

        monkeypatch.setattr(BigramTraining, name, submit)

    noted("forward_backward")
    noted("forward_backward_custom")
    return seen


def rows_of(crucible: Crucible, run_id: str) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in crucible.metrics(run_id).rows if "progress" in row.metrics]


# --- the schedule and the counter ------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_dk4_the_rate_of_every_step_is_positive_and_belongs_to_a_count_that_moves_by_one(
    crucible: Crucible, made: Make, workflow: str, schedule: str
) -> None:
    spec = ScheduleSpec.model_validate({"name": schedule})
    record = crucible.run(made(workflow, epochs=2, schedule=spec, eval_every=0))
    rows = rows_of(crucible, record.run_id)
    total = 8
    assert [step for step, _ in rows] == list(range(total))
    assert [metrics["progress"] for _, metrics in rows] == [(step + 1) / total for step in range(total)]
    rates = [metrics["learning_rate"] for _, metrics in rows]
    assert rates == pytest.approx([RATE * lr_multiplier(schedule, step, total) for step in range(total)])
    assert min(rates) > 0
    assert (record.step, record.total_steps) == (total, total)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_rows_of_every_workflow_have_the_same_names_for_the_same_things(
    crucible: Crucible, made: Make, workflow: str
) -> None:
    record = crucible.run(made(workflow, eval_every=0))
    for _, metrics in rows_of(crucible, record.run_id):
        assert set(metrics) >= {
            *("epoch", "progress", "learning_rate", "num_sequences", "num_tokens", "num_loss_tokens"),
            *("tokens/cumulative/trained", "unclipped_grad_l2:mean"),
        }
        assert not {"optim/lr", "progress/done_frac", "lr", "batch_size"} & set(metrics)


# --- order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_dk15_every_epoch_of_every_workflow_has_an_order_of_its_own(
    crucible: Crucible, made: Make, batches: list[list[tuple[int, ...]]], workflow: str
) -> None:
    crucible.run(made(workflow, epochs=2, eval_every=0))
    width = 2 if workflow == "preference" else 1
    units = [
        tuple(batch[start : start + width]) for batch in batches for start in range(0, len(batch), width)
    ]
    first, second = units[:16], units[16:]
    assert len(second) == 16
    assert sorted(first) == sorted(second)
    assert first != second
    into_first = np.argsort(np.random.default_rng(0).permutation(16))
    in_given_order = [first[place] for place in into_first]
    assert second == [in_given_order[place] for place in np.random.default_rng(1).permutation(16)]


# --- what was opened is closed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_dk9_sessions_and_samplers_are_closed_when_a_later_stage_fails(
    crucible: Crucible, made: Make, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    opened: list[BigramTraining | BigramSampler] = []

    def noted(kind: Any) -> None:
        plain = kind.__init__

        def init(self: Any, *given: Any) -> None:
            plain(self, *given)
            opened.append(self)

        monkeypatch.setattr(kind, "__init__", init)

    async def left_to_the_stages(backend: BigramBackend) -> None:
        return

    noted(BigramTraining)
    noted(BigramSampler)
    monkeypatch.setattr(BigramBackend, "close", left_to_the_stages)
    call = "forward_backward_custom" if workflow == "preference" else "forward_backward"
    with pytest.raises(ServiceError, match="call 1 was to fail"):
        crucible.run(made(workflow, faults={"fail": {call: 1}}))
    assert opened
    assert [type(one).__name__ for one in opened if not one.closed] == []


# --- the teacher -----------------------------------------------------------------------------------------------


class MirroredTokenizer(ByteTokenizer):
    """Byte b is id 255 − b: no text has the ids that another model's tokenizer gives it."""

    @property
    def digest(self) -> str:
        return "mirrored"

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return [255 - token for token in super().encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return super().decode([token if token == END else 255 - token for token in tokens])


class TwoTongues(BigramBackend):
    """Two models with tokenizers of their own; notes what the samplers of the other one are asked."""

    def __init__(self, foreign: str) -> None:
        super().__init__()
        self.foreign = foreign
        self.asked: list[tuple[ModelInput, SamplingParams]] = []
        self.answered: list[Sequence[int]] = []

    async def load_tokenizer(self, base_model: str) -> ByteTokenizer:
        return MirroredTokenizer() if base_model == self.foreign else ByteTokenizer()

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> BigramSampler:
        sampler = await super().create_sampling_client(base_model, weights)
        plain = sampler.sample

        def sample(prompt: ModelInput, params: SamplingParams, **rest: Any) -> Handle[SampleResponse]:
            self.asked.append((prompt, params))
            handle = plain(prompt, params, **rest)
            self.answered.append(handle.result(1).sequences[0].tokens)
            return handle

        sampler.sample = sample  # type: ignore[method-assign]
        return sampler


@pytest.fixture
def taught(tmp_path: Path) -> Iterator[tuple[StageBench, TwoTongues]]:
    """After a teacher with another tokenizer has answered every prompt."""
    foreign = str(write_bigram_model(tmp_path / "teacher", seed=1))
    backend = TwoTongues(foreign)
    bench = StageBench(tmp_path / "run", toy_experiment(tmp_path), adapters={"training_backend": backend})
    bench[PROVENANCE] = {}
    bench.run(LoadTeachers, teachers=[{"model": foreign, "renderer": "role_colon"}])
    bench.run(LoadSources, name="chats")
    bench.run(SampleTeacher, max_tokens=5, temperature=0.25)
    yield bench, backend
    bench.close()


def test_dk13_the_teacher_reads_and_answers_in_its_own_tokens(taught: tuple[StageBench, TwoTongues]) -> None:
    bench, backend = taught
    assert isinstance(bench[TEACHERS][0].speaks().tokenizer, MirroredTokenizer)
    mirrored = MirroredTokenizer()
    texts = [mirrored.decode(prompt.to_ints()) for prompt, _ in backend.asked]
    assert len(texts) == 22
    assert all(text.startswith("User: q") and text.endswith("\n\nAssistant:") for text in texts)
    for row, tokens in zip(bench[SOURCES][0].rows.rows, backend.answered[:16], strict=True):
        spelled = mirrored.decode([token for token in tokens if token != END])
        assert row["messages"][-1]["content"].strip() == spelled.strip()


def test_what_is_asked_of_the_teachers_sampling_reaches_its_sampler(
    taught: tuple[StageBench, TwoTongues],
) -> None:
    bench, backend = taught
    settings = [params for _, params in backend.asked]
    stop = bench[TEACHERS][0].speaks().stop_sequences
    assert {(params.temperature, params.max_tokens, params.stop) for params in settings} == {(0.25, 5, stop)}
    seeds = [params.seed for params in settings]
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


# --- settings that would do nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "named"),
    [
        ({"micro_batch_size": 2}, "training.micro_batch_size"),
        ({"loss_config": {"clip_low_threshold": 0.5}}, "training.loss_config"),
    ],
)
def test_a_setting_that_the_preference_loss_cannot_act_on_is_refused(
    crucible: Crucible, made: Make, training: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        crucible.plan(made("preference", **training))


def test_a_loss_that_preferences_would_not_use_is_refused(crucible: Crucible, made: Make) -> None:
    experiment = made("preference")
    assert experiment.training is not None
    other = experiment.training.model_copy(update={"loss": "importance_sampling"})
    with pytest.raises(ConfigError, match=r"training\.loss: preference training does not act on it"):
        crucible.plan(experiment.model_copy(update={"training": other}))


# --- what is trained -------------------------------------------------------------------------------------------


class Rewriting(RoleColonRenderer):
    """A format whose history is not what was sampled."""

    has_extension_property = False  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("renderer", "what", "turns", "warned"),
    [
        (Rewriting, "all_assistant_messages", 2, True),
        (Rewriting, "all_tokens", 2, True),
        (Rewriting, "last_assistant_message", 2, False),
        (Rewriting, "all_assistant_messages", 1, False),
        (RoleColonRenderer, "all_assistant_messages", 2, False),
    ],
)
def test_training_turns_that_stand_otherwise_than_they_are_sampled_is_said(
    tmp_path: Path, renderer: type[RoleColonRenderer], what: str, turns: int, warned: bool
) -> None:
    bench = StageBench(tmp_path / "run", toy_experiment(tmp_path))
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    bench[DATASET] = DatasetSnapshot(ref=DatasetRef(id="rows"), rows=[{"messages": turn * turns}] * 4)
    bench[EVAL_DATASET] = None
    bench[RENDERER] = renderer(ByteTokenizer())
    bench.run(BuildDatums, train_on_what=what)
    said = [data["message"] for data in bench.of("log")]
    assert [text.startswith("4 of 4 examples train earlier turns") for text in said] == [True] * warned


def test_a_pair_that_cannot_be_built_leaves_the_other_pairs_together(tmp_path: Path) -> None:
    questions = ["a", "b", "c" * 200, "d", "e" * 200, "f"]
    rows = [
        {
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for question in questions
    ]
    bench = StageBench(tmp_path / "run", toy_experiment(tmp_path))
    bench[DATASET] = DatasetSnapshot(ref=DatasetRef(id="rows"), rows=rows)
    bench[EVAL_DATASET] = None
    bench[RENDERER] = RoleColonRenderer(ByteTokenizer())
    bench.run(BuildComparisons, on_error="drop")
    spelled = [
        tuple(ByteTokenizer().decode(datum.model_input.to_ints()) for datum in example.datums)
        for example in bench[EXAMPLES]
    ]
    asked = [f"User: {question}\n\nAssistant:" for question in questions if len(question) == 1]
    assert len(spelled) == 4
    for prompt, (chosen, rejected) in zip(asked, spelled, strict=True):
        assert chosen.startswith(prompt)
        assert chosen.removeprefix(prompt).strip().startswith("yes")
        assert rejected.startswith(prompt)
        assert rejected.removeprefix(prompt).strip().startswith("no")
