"""Off-policy distillation over a backend in numpy: the student learns what teachers answer, or would have said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, DatasetRef, Experiment, NotFoundError, RunState, ServiceError
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gain, held_out_gains
from crucible_kitchen.workflows.distillation import DistillationOptions, TaughtSource, distillation
from crucible_testing.backend import BigramBackend, BigramSampler, BigramTraining
from crucible_testing.bench import chat_rows, plant_bigram, toy_experiment, write_chats
from crucible_train.types import Datum

TRACE = json.loads((Path(__file__).parent / "golden" / "distillation_traces.json").read_text())["off_policy"]
SOFT: dict[str, Any] = {"answers": False, "n_teacher_targets": 8}
EVERY = 257
"""Soft targets that are the teacher's whole distribution."""


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def folder_of(crucible: Crucible, run_id: str) -> Path:
    return crucible.service.store.open(run_id).path


@pytest.fixture
def teacher(crucible: Crucible, tmp_path: Path) -> str:
    """Weights of a student of an earlier run."""
    record = crucible.run(toy_experiment(tmp_path, epochs=6))
    return str(folder_of(crucible, record.run_id) / "checkpoints" / "final")


def taught(
    tmp_path: Path,
    weights: str | None,
    *,
    renderer: str = "role_colon",
    options: dict[str, Any] | None = None,
    more: Sequence[str] = (),
    **changes: Any,
) -> Experiment:
    """Whose further sources are taught by the base model."""
    plain = toy_experiment(tmp_path, **changes)
    model = plain.model
    assert model is not None
    path = model.uri or model.id
    settings = {
        "teacher_weights": weights,
        "teacher_renderer": renderer,
        "teacher_max_tokens": 12,
        "sample_prompts": 0,
        "more": tuple(
            TaughtSource(
                name=name,
                dataset=DatasetRef(id=write_chats(tmp_path / f"{name}.jsonl", chat_rows(9, first=40))),
                eval_dataset=DatasetRef(id=write_chats(tmp_path / f"{name}_t.jsonl", chat_rows(3, first=60))),
                teacher=path,
                teacher_renderer="role_colon",
            )
            for name in more
        ),
    }
    chosen = {"renderer": "role_colon", "teacher": path, **settings, **(options or {})}
    options_of_workflow = DistillationOptions(**chosen)
    return plain.model_copy(
        update={"pipeline": distillation(options_of_workflow), "workflow": "distillation"}
    )


def answers_of(folder: Path) -> list[Any]:
    _, *lines = (folder / "results" / "teacher_train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_student_comes_closer_to_the_teachers_held_out_answers(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    record = crucible.run(taught(tmp_path, teacher, epochs=6, eval_every=100))
    assert record.state is RunState.COMPLETED
    gain = held_out_gain(folder_of(crucible, record.run_id))
    assert gain is not None
    assert gain.difference.mean > 0
    assert gain.difference.interval.low > 0


def test_the_teacher_answers_the_prompts_and_its_answers_are_what_is_trained(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    experiment = taught(tmp_path, teacher)
    record = crucible.run(experiment)
    rows = answers_of(folder_of(crucible, record.run_id))
    assert experiment.dataset is not None
    given = [json.loads(line) for line in Path(experiment.dataset.id).read_text().splitlines()]
    asked = {json.dumps(row["messages"][:-1]) for row in given}
    assert {json.dumps(row["messages"][:-1]) for row in rows} <= asked
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert any(row["messages"] not in [other["messages"] for other in given] for row in rows)


def test_a_resumed_run_trains_on_the_same_answers_and_ends_the_same(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    experiment = taught(tmp_path, teacher, epochs=2, save_every=1)
    whole = crucible.run(experiment)

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    broken = crucible.list(limit=1).runs[0]
    first = answers_of(folder_of(crucible, broken.run_id))
    resumed = crucible.resume(broken.run_id)
    assert answers_of(folder_of(crucible, resumed.run_id)) == first
    assert [row.metrics for row in crucible.metrics(resumed.run_id).rows] == [
        row.metrics for row in crucible.metrics(whole.run_id).rows
    ]


def test_a_teacher_without_weights_of_its_own_is_the_base_model(crucible: Crucible, tmp_path: Path) -> None:
    assert crucible.run(taught(tmp_path, None)).state is RunState.COMPLETED


def test_missing_weights_and_an_unknown_renderer_are_named_before_anything_runs(
    crucible: Crucible, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="no-such-weights"):
        crucible.plan(taught(tmp_path, str(tmp_path / "no-such-weights")))
    with pytest.raises(ConfigError, match=r"teacher_renderer|renderer.*did you mean 'role_colon'"):
        crucible.plan(taught(tmp_path, None, renderer="role_colom"))


def test_other_sampling_gives_other_answers(crucible: Crucible, tmp_path: Path, teacher: str) -> None:
    first = crucible.run(taught(tmp_path, teacher))
    other = taught(tmp_path, teacher)
    second = crucible.run(other.model_copy(update={"seed": other.seed + 1}))
    assert answers_of(folder_of(crucible, first.run_id)) != answers_of(folder_of(crucible, second.run_id))


# --- soft targets ----------------------------------------------------------------------------------------------


def rows_of(crucible: Crucible, run_id: str) -> list[tuple[int, Mapping[str, float]]]:
    return [(row.step, row.metrics) for row in crucible.metrics(run_id).rows]


def final_table(crucible: Crucible, run_id: str) -> bytes:
    return (folder_of(crucible, run_id) / "checkpoints" / "final" / "weights.npy").read_bytes()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[Datum]]:
    """The data of every forward and backward pass, in order."""
    seen: list[list[Datum]] = []
    plain = BigramTraining.forward_backward

    def noted(self: BigramTraining, data: Sequence[Datum], *rest: Any) -> Any:
        seen.append(list(data))
        return plain(self, data, *rest)

    monkeypatch.setattr(BigramTraining, "forward_backward", noted)
    return seen


@pytest.mark.parametrize("answers", [True, False])
def test_soft_targets_bring_the_student_closer_to_the_teacher(
    crucible: Crucible, tmp_path: Path, teacher: str, answers: bool
) -> None:
    options = {**SOFT, "answers": answers}
    record = crucible.run(taught(tmp_path, teacher, options=options, epochs=6, eval_every=100))
    folder = folder_of(crucible, record.run_id)
    gains = {gain.measure.prefix: gain for gain in held_out_gains(folder)}
    assert set(gains) == {"nll", "teacher_kl"}
    assert gains["teacher_kl"].difference.interval.low > 0
    assert gains["teacher_kl"].after >= 0
    assert (folder / "results" / "teacher_train.jsonl").exists() is answers
    losses = [row["train/loss:sum"] for _, row in rows_of(crucible, record.run_id) if "train/loss:sum" in row]
    assert losses[-1] < losses[0]


def test_a_position_keeps_the_weight_that_it_has_for_plain_targets(
    crucible: Crucible, tmp_path: Path, teacher: str, trained: list[list[Datum]]
) -> None:
    crucible.run(taught(tmp_path, teacher, options=SOFT))
    soft = list(trained)
    trained.clear()
    crucible.run(taught(tmp_path, teacher, options={"n_teacher_targets": 0}))
    for batch in soft:
        for datum in batch:
            assert datum.weights.shape == (datum.model_input.length, 8)
            assert datum.num_loss_tokens == pytest.approx(1.0)
            counted = datum.weights.sum(axis=1)
            assert len(set(np.round(counted[counted > 0], 6).tolist())) == 1
    assert all(datum.num_loss_tokens == pytest.approx(1.0) for batch in trained for datum in batch)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_the_whole_distribution(
    crucible: Crucible, tmp_path: Path
) -> None:
    options = {**SOFT, "n_teacher_targets": EVERY}
    record = crucible.run(taught(tmp_path, None, options=options, eval_every=1, learning_rate=0.0))
    rows = [row for _, row in rows_of(crucible, record.run_id)]
    for name in ("test/teacher_kl", "teacher_kl", "unclipped_grad_l2:mean"):
        found = [row[name] for row in rows if name in row]
        assert len(found) >= 4
        assert found == pytest.approx([0.0] * len(found), abs=1e-6)


def test_a_learning_rate_of_zero_leaves_the_distance_as_it_was(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    record = crucible.run(taught(tmp_path, teacher, options=SOFT, learning_rate=0.0, eval_every=2))
    found = {
        row["test/teacher_kl"] for _, row in rows_of(crucible, record.run_id) if "test/teacher_kl" in row
    }
    assert len(found) == 1


def test_rows_of_soft_targets_have_upstreams_names(crucible: Crucible, tmp_path: Path, teacher: str) -> None:
    record = crucible.run(taught(tmp_path, teacher, options=SOFT, held_out=0))
    for step, row in rows_of(crucible, record.run_id):
        assert set(TRACE["metric_names"]) - {"step"} <= set(row)
        assert (row["batch_size"], row["progress/done_frac"]) == (4, (step + 1) / 4)
        assert row["train/loss:sum"] == pytest.approx(
            row["train_mean_nll"] * row["num_loss_tokens"], rel=1e-5
        )


def test_the_teacher_is_asked_once_per_example_before_each_step(
    crucible: Crucible, tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(kind: type, name: str) -> None:
        plain = getattr(kind, name)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            calls.append(name if "topk_prompt_logprobs" not in named else f"{named['topk_prompt_logprobs']}")
            return plain(self, *given, **named)

        monkeypatch.setattr(kind, name, call)

    noted(BigramSampler, "sample")
    noted(BigramTraining, "forward_backward")
    noted(BigramTraining, "optim_step")
    crucible.run(taught(tmp_path, teacher, options={**SOFT, "evaluate": False, "n_teacher_targets": 4}))
    names = {"asample": "4", "forward_backward": "forward_backward", "optim_step": "optim_step"}
    theirs = [names[r.split("[")[0].split()[0]] for r in TRACE["requests"] if r.startswith(tuple(names))]
    assert theirs[:3] == ["4", "forward_backward", "optim_step"]
    assert calls == [*["4"] * 4, *theirs[1:3]] * 4


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("options", [SOFT, {"n_teacher_targets": 8}, {}], ids=str)
def test_a_resumed_run_of_several_teachers_equals_an_uninterrupted_one(
    crucible: Crucible,
    tmp_path: Path,
    teacher: str,
    trained: list[list[Datum]],
    step: int,
    options: dict[str, Any],
) -> None:
    experiment = taught(
        tmp_path, teacher, options=options, more=["b"], epochs=2, save_every=1, eval_every=2, submit_ahead=0
    )
    whole = crucible.run(experiment)
    submitted = [[datum.model_input.to_ints() for datum in batch] for batch in trained]
    trained.clear()

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    resumed = crucible.resume(crucible.list(limit=1).runs[0].run_id)
    assert rows_of(crucible, resumed.run_id) == rows_of(crucible, whole.run_id)
    assert final_table(crucible, resumed.run_id) == final_table(crucible, whole.run_id)
    assert [[datum.model_input.to_ints() for datum in batch] for batch in trained] == submitted


# --- several teachers ------------------------------------------------------------------------------------------


def test_each_source_gives_its_share_of_a_batch_and_is_taught_by_its_own_teacher(
    crucible: Crucible, tmp_path: Path, teacher: str, trained: list[list[Datum]]
) -> None:
    options = {**SOFT, "n_teacher_targets": EVERY, "weight": 3.0}
    record = crucible.run(taught(tmp_path, teacher, options=options, more=["b"], eval_every=100))
    assert record.total_steps == 5  # 16 rows, 3 a batch, are used up before 9 rows, 1 a batch
    texts = [[bytes(datum.model_input.to_ints()).decode() for datum in batch] for batch in trained]
    numbers = [[int(text.partition("q")[2].split()[0]) for text in batch] for batch in texts]
    assert all([number >= 40 for number in batch] == [False, False, False, True] for batch in numbers)
    used = [number for batch in numbers for number in batch]
    assert len(set(used)) == len(used)
    lines = (
        (folder_of(crucible, record.run_id) / "results" / "teacher_kl_000000.jsonl").read_text().splitlines()
    )
    scores = [json.loads(line)["score"] for line in lines]
    assert min(scores[:6]) > 1e-3
    assert scores[6:] == pytest.approx([0.0] * 3, abs=1e-6)  # taught by what the student still is


def test_every_source_is_answered_by_its_teacher(crucible: Crucible, tmp_path: Path, teacher: str) -> None:
    record = crucible.run(taught(tmp_path, teacher, more=["b"]))
    said = [e.data for e in crucible.events(record.run_id).events if e.type == "teacher.sampled"]
    assert [(data["role"], data["rows"]) for data in said] == [
        ("train", 16),
        ("held_out", 6),
        ("train_1", 9),
        ("held_out_1", 3),
    ]
    assert said[0]["teacher"] != said[2]["teacher"]


# --- what is refused -------------------------------------------------------------------------------------------


def test_a_teacher_with_nothing_to_do_a_batch_too_small_and_a_source_too_short_are_named(
    crucible: Crucible, tmp_path: Path, teacher: str
) -> None:
    with pytest.raises(ConfigError, match="neither answers nor gives targets"):
        taught(tmp_path, teacher, options={"answers": False})
    with pytest.raises(ConfigError, match="leaves 0 rows for the last of 2 sources"):
        crucible.plan(taught(tmp_path, teacher, more=["b"], batch_size=1))
    with pytest.raises(ConfigError, match="batch of 10 is larger than the 9 rows"):
        crucible.plan(taught(tmp_path, teacher, more=["b"], batch_size=20))


def test_a_backend_that_does_not_name_the_likeliest_tokens_is_refused(
    crucible: Crucible, tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = BigramBackend.capabilities
    monkeypatch.setattr(
        BigramBackend, "capabilities", lambda self: replace(plain(self), topk_prompt_logprobs=False)
    )
    with pytest.raises(ConfigError, match="lacks topk_prompt_logprobs"):
        crucible.plan(taught(tmp_path, teacher, options=SOFT))
    assert crucible.run(taught(tmp_path, teacher)).state is RunState.COMPLETED


def test_a_teacher_that_keeps_silent_stops_the_run(
    crucible: Crucible, tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BigramSampler, "_likeliest", lambda self, tokens, count: None)
    with pytest.raises(ServiceError, match="does not say which tokens are likeliest"):
        crucible.run(taught(tmp_path, teacher, options=SOFT))
