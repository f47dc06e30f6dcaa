"""On-policy distillation over a backend in numpy: the student answers, its teachers say what they think of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import AdapterError, ConfigError, DatasetRef, Experiment, NotFoundError, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.atomic import read_lines
from crucible_kitchen.reports.facts import held_out_gains, sample_pairs
from crucible_kitchen.workflows.on_policy_distillation import (
    FurtherPrompts,
    OnPolicyOptions,
    PromptSource,
    on_policy_distillation,
)
from crucible_testing.backend import BigramSampler, BigramTraining, write_bigram_model
from crucible_testing.bench import LETTERS, chat_rows, plant_bigram, toy_experiment, write_chats
from crucible_testing.bigram_checkpoint import write_table

TRACE = json.loads((Path(__file__).parent / "golden" / "distillation_traces.json").read_text())["on_policy"]
LEARNING: dict[str, Any] = {"group_size": 16, "max_tokens": 1}
"""Options under which there is much to see of few tokens."""
Make = Callable[..., Experiment]


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def folder_of(crucible: Crucible, run_id: str) -> Path:
    return crucible.service.store.open(run_id).path


def rows_of(crucible: Crucible, run_id: str) -> list[tuple[int, Mapping[str, float]]]:
    return [(row.step, row.metrics) for row in crucible.metrics(run_id).rows]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Weights of a teacher that likes plain letters, whatever stands before them."""
    table = np.zeros((257, 257))
    table[:, 128:] = -3.0
    return write_table(tmp_path / "taught", "sampler", {"weights": table}, 7).path


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a run of four iterations of four prompts, each answered twice."""

    def make(teacher_weights: str | None, *, more: Sequence[str] = (), **changes: Any) -> Experiment:
        options = {"group_size": 2, "max_tokens": 2, **changes.pop("options", {})}
        settings = {"batch_size": 4, "loss": "importance_sampling", "drop_last": False, **changes}
        plain = toy_experiment(tmp_path, **settings)
        model = plain.model
        assert model is not None
        model_path = model.uri or model.id
        first = {
            "name": "a",
            "groups_per_batch": 4,
            "teacher": model_path,
            "teacher_weights": teacher_weights,
        }
        source = PromptSource(**{**first, **options.pop("source", {})})
        further = tuple(
            FurtherPrompts(
                name=name,
                groups_per_batch=4,
                teacher=model_path,
                dataset=DatasetRef(id=write_chats(tmp_path / f"{name}.jsonl", chat_rows(16, first=40))),
                eval_dataset=DatasetRef(id=write_chats(tmp_path / f"{name}_t.jsonl", chat_rows(3, first=60))),
            )
            for name in more
        )
        chosen = OnPolicyOptions(renderer="role_colon", source=source, more=further, **options)
        nodes = on_policy_distillation(chosen)
        return plain.model_copy(update={"pipeline": nodes, "workflow": "on_policy_distillation"})

    return make


# --- what is learned -------------------------------------------------------------------------------------------


def test_the_held_out_distance_from_the_teacher_falls_and_the_interval_says_so(
    crucible: Crucible, made: Make, weights: str
) -> None:
    experiment = made(weights, epochs=6, eval_every=100, held_out=60, options=LEARNING)
    record = crucible.run(experiment)
    assert record.state is RunState.COMPLETED
    folder = folder_of(crucible, record.run_id)
    (gain,) = held_out_gains(folder)
    assert gain.measure.prefix == "teacher_kl"
    assert gain.difference.n == 60
    assert gain.difference.interval.low > 0
    assert 0 < gain.after < gain.before
    assert record.metrics["test/teacher_kl"] == pytest.approx(gain.after, abs=0.1)  # by token, not by prompt
    assert "held-out distance from the teacher" in (folder / "report.md").read_text()
    pairs = sample_pairs(folder)
    assert pairs[0].prompt[0]["content"].startswith("q")
    assert pairs[0].before != pairs[0].after


def test_a_student_that_equals_its_teacher_learns_nothing(crucible: Crucible, made: Make) -> None:
    record = crucible.run(made(None, eval_every=2))
    for _, row in rows_of(crucible, record.run_id):
        assert row.get("teacher_kl", 0.0) == 0.0
        assert row.get("unclipped_grad_l2:mean", 0.0) == 0.0
        assert row.get("test/teacher_kl", 0.0) == 0.0


def test_a_learning_rate_of_zero_changes_nothing(crucible: Crucible, made: Make, weights: str) -> None:
    record = crucible.run(made(weights, learning_rate=0.0, eval_every=2))
    found = [
        row["test/teacher_kl"] for _, row in rows_of(crucible, record.run_id) if "test/teacher_kl" in row
    ]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert found[0] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_substeps": 2},
        {"stream_minibatches": 2},
        {"max_steps_off_policy": 1},
        {"compute_post_kl": True},
        {"kl_discount_factor": 0.5},
        {"kl_penalty_coef": 0.25},
    ],
    ids=str,
)
def test_every_way_of_training_brings_the_student_closer(
    crucible: Crucible, made: Make, weights: str, options: dict[str, Any]
) -> None:
    record = crucible.run(
        made(weights, epochs=6, eval_every=100, held_out=60, options={**LEARNING, **options})
    )
    (gain,) = held_out_gains(folder_of(crucible, record.run_id))
    assert gain.after < gain.before
    row = rows_of(crucible, record.run_id)[1][1]
    assert ("kl_pre_post_v1" in row) is ("compute_post_kl" in options)


@pytest.mark.parametrize("loss", ["ppo", "cispo", "gspo"])
def test_every_policy_loss_serves(crucible: Crucible, made: Make, weights: str, loss: str) -> None:
    record = crucible.run(made(weights, loss=loss, epochs=6, eval_every=100, options=LEARNING))
    found = [row["teacher_kl"] for _, row in rows_of(crucible, record.run_id) if "teacher_kl" in row]
    assert found[-1] < found[0]


def test_parts_of_an_iteration_are_reported_as_one(crucible: Crucible, made: Make, weights: str) -> None:
    whole = crucible.run(made(weights, more=["b"]))
    parts = crucible.run(made(weights, more=["b"], options={"stream_minibatches": 2}))
    first, second = (rows_of(crucible, record.run_id)[0][1] for record in (whole, parts))
    names = [name for name in first if name.startswith("teacher_kl")]
    assert names == ["teacher_kl", "teacher_kl/dataset_0", "teacher_kl/dataset_1"]
    for name in names:
        assert second[name] == pytest.approx(first[name], rel=1e-6, abs=1e-9)


# --- several teachers ------------------------------------------------------------------------------------------


def test_each_source_has_its_own_teacher_share_and_figures(
    crucible: Crucible, made: Make, weights: str
) -> None:
    record = crucible.run(made(weights, more=["b"], eval_every=100))
    first = rows_of(crucible, record.run_id)[0][1]
    assert first["teacher_kl/dataset_0"] > 0
    assert first["teacher_kl/dataset_1"] == 0.0  # taught by what the student still is
    assert first["env/a/total_episodes"] == first["env/b/total_episodes"] == 8
    tokens = [first[f"env/{name}/total_ac_tokens"] for name in "ab"]
    assert first["teacher_kl"] == pytest.approx(first["teacher_kl/dataset_0"] * tokens[0] / sum(tokens))
    lines = (folder_of(crucible, record.run_id) / "results" / "teacher_kl_000000.jsonl").read_text()
    records = [json.loads(line) for line in lines.splitlines()]
    assert len(records) == 6 + 3
    assert {one["score"] for one in records[6:]} == {0.0}
    assert all(one["higher_is_better"] is False for one in records)
    assert first["test/teacher_kl/dataset_1"] == 0.0
    provenance = record_of_provenance(crucible, record.run_id)
    assert provenance["teacher"] != provenance["teacher_1"]
    assert {"dataset", "dataset_1", "eval_dataset", "eval_dataset_1"} <= set(provenance)


def test_a_prompt_that_two_sources_hold_out_is_answered_once(
    crucible: Crucible, made: Make, weights: str, tmp_path: Path
) -> None:
    experiment = made(weights, more=["b"], eval_every=100)
    write_chats(tmp_path / "b_t.jsonl", chat_rows(6, first=16))  # the rows that source a holds out
    record = crucible.run(experiment)
    lines = (folder_of(crucible, record.run_id) / "results" / "teacher_kl_000000.jsonl").read_text()
    ids = [json.loads(line)["example_id"] for line in lines.split("\n") if line]
    assert len(ids) == len(set(ids)) == 6
    said = [event.data["message"] for event in crucible.events(record.run_id).events if event.type == "log"]
    assert "6 held-out problems stand there again and are tried once" in said


def record_of_provenance(crucible: Crucible, run_id: str) -> dict[str, Any]:
    saved = [e.data for e in crucible.events(run_id).events if e.type == "checkpoint.saved"]
    found: dict[str, Any] = saved[-1]["state"]["provenance"]
    return found


def test_one_teacher_of_two_sources_is_opened_once(crucible: Crucible, made: Make) -> None:
    record = crucible.run(made(None, more=["b"]))
    loaded = [e.data for e in crucible.events(record.run_id).events if e.type == "model.loaded"]
    assert [data.get("role") for data in loaded] == ["teacher", None]


def test_the_epoch_ends_with_the_shortest_source(crucible: Crucible, made: Make, tmp_path: Path) -> None:
    experiment = made(None, more=["b"])
    write_chats(tmp_path / "b.jsonl", chat_rows(6, first=40))
    assert crucible.run(experiment).total_steps == 2


def test_names_of_metrics_are_upstreams_and_the_further_ones_are_known(
    crucible: Crucible, made: Make, weights: str
) -> None:
    record = crucible.run(made(weights, more=["b"], eval_every=0, held_out=0))
    ours = {name for _, row in rows_of(crucible, record.run_id) for name in row}
    theirs = {name for name in TRACE["metric_names"] if not name.startswith("time/")} - {"step"}
    assert theirs - ours == set()
    further = {name for name in ours - theirs if not name.startswith(("tokens/", "test/"))}
    assert further == {"loss:sum", "learning_rate", "progress"}


def test_calls_reach_the_backend_in_upstreams_order(
    crucible: Crucible, made: Make, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(kind: type, name: str, spelled: str) -> None:
        plain = getattr(kind, name)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            calls.append(spelled)
            return plain(self, *given, **named)

        monkeypatch.setattr(kind, name, call)

    noted(BigramSampler, "sample", "asample")
    noted(BigramSampler, "compute_logprobs", "score")
    noted(BigramTraining, "forward_backward", "forward_backward")
    noted(BigramTraining, "optim_step", "optim_step")
    noted(BigramTraining, "sampling_client", "save_weights_for_sampler")
    noted(BigramTraining, "save_state", "save_weights")
    noted(BigramTraining, "save_weights_for_sampler", "save_weights_for_sampler")
    crucible.run(made(weights, more=["b"], save_every=2, held_out=0, options={"evaluate": False}))

    expected = []
    for request in TRACE["requests"]:
        name = re.split(r"[ \[]", request)[0]
        times = int(found[1]) if (found := re.search(r" x(\d+)$", request)) else 1
        if name == "asample" and "prompt_logprobs=True" in request:
            name = "score"
        if name in {"asample", "score", "forward_backward", "optim_step"}:
            expected += [name] * times
    assert [call for call in calls if not call.startswith("save")] == expected
    iteration = [
        "save_weights_for_sampler",
        *["asample"] * 16,
        *["score"] * 16,
        "forward_backward",
        "optim_step",
    ]
    ending = ["save_weights", "save_weights_for_sampler"]
    assert calls == [*iteration * 2, "save_weights", *iteration * 2, *ending]


# --- exactness -------------------------------------------------------------------------------------------------


def final_table(crucible: Crucible, run_id: str) -> bytes:
    return (folder_of(crucible, run_id) / "checkpoints" / "final" / "weights.npy").read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    crucible: Crucible, made: Make, weights: str
) -> None:
    experiment = made(weights, eval_every=2)
    first, second = crucible.run(experiment), crucible.run(experiment)
    assert rows_of(crucible, first.run_id) == rows_of(crucible, second.run_id)
    assert final_table(crucible, first.run_id) == final_table(crucible, second.run_id)
    third = crucible.run(experiment.model_copy(update={"seed": 1}))
    assert final_table(crucible, third.run_id) != final_table(crucible, first.run_id)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("options", [{}, {"num_substeps": 2}, {"stream_minibatches": 2}], ids=str)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    crucible: Crucible, made: Make, weights: str, step: int, options: dict[str, Any]
) -> None:
    experiment = made(weights, more=["b"], save_every=1, eval_every=2, options={"log_groups": 8, **options})
    whole = crucible.run(experiment)

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    resumed = crucible.resume(crucible.list(limit=1).runs[0].run_id)
    assert rows_of(crucible, resumed.run_id) == rows_of(crucible, whole.run_id)
    assert final_table(crucible, resumed.run_id) == final_table(crucible, whole.run_id)
    asked = prompts_of(folder_of(crucible, resumed.run_id))
    assert asked == prompts_of(folder_of(crucible, whole.run_id))
    assert len(set(asked)) == 32  # every prompt of both sources
    assert all(asked.count(prompt) == 2 for prompt in set(asked))  # once, by two members


def prompts_of(folder: Path) -> list[str]:
    """What was asked in the iterations, in order."""
    files = sorted((folder / "rollouts").glob("step_*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line["turns"][0]["observation"] for line in lines]


def test_a_resumed_run_whose_teacher_is_another_is_refused(
    crucible: Crucible, made: Make, weights: str, tmp_path: Path
) -> None:
    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved":
            raise KeyboardInterrupt

    experiment = made(None, save_every=1, options={"source": {"teacher": str(tmp_path / "other")}})
    write_bigram_model(tmp_path / "other", seed=1)
    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    write_bigram_model(tmp_path / "other", seed=2)
    with pytest.raises(Exception, match="the teacher is not the one this run began with"):
        crucible.resume(crucible.list(limit=1).runs[0].run_id)


@pytest.mark.parametrize("judged", [False, True])
def test_prompts_whose_environment_fails_are_left_out_counted_and_said_where_that_was_asked(
    crucible: Crucible, made: Make, weights: str, judged: bool
) -> None:
    def failing(fails: dict[str, str], **options: Any) -> Experiment:
        source = {"env": LETTERS, "env_options": {"batches": 2, "fails": fails}}
        return made(weights, options={"source": source, "evaluate_answers": judged, **options})

    record = crucible.run(failing({"1": "ours", "1003": "other"}, on_error="drop"))
    rows, lost = rows_of(crucible, record.run_id), "rollout_errors/groups"
    assert [metrics[lost] for _, metrics in rows if lost in metrics] == [1.0]
    assert {metrics[f"test/{lost}"] for _, metrics in rows if "test/teacher_kl" in metrics} == {1}
    files = sorted((folder_of(crucible, record.run_id) / "results").glob("teacher_kl_*.jsonl"))
    kept = {tuple(json.loads(line)["example_id"] for line in read_lines(file)) for file in files}
    assert kept == {tuple(f"held-{number}" for number in range(24) if number != 3)}
    with pytest.raises(Exception, match="KeyError: 'problem 1003'"):
        crucible.run(failing({"1003": "other"}))


# --- what is refused -------------------------------------------------------------------------------------------


def test_what_is_wrong_is_named_before_anything_runs(crucible: Crucible, made: Make, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        crucible.plan(made(str(tmp_path / "nowhere")))
    with pytest.raises(NotFoundError, match="no-such-model"):
        crucible.plan(made(None, options={"source": {"teacher": "no-such-model"}}))
    with pytest.raises(AdapterError, match="did you mean 'prompts'"):
        crucible.plan(made(None, options={"source": {"env": "promts"}}))
    with pytest.raises(ConfigError, match=r"env_options.max_prompt_tokens"):
        crucible.plan(made(None, options={"source": {"env_options": {"max_prompt_tokens": 0}}}))
    with pytest.raises(ConfigError, match="two sources are called 'a'"):
        crucible.plan(made(None, more=["a"]))
    with pytest.raises(ConfigError, match="exclude each other"):
        made(None, options={"stream_minibatches": 2, "max_steps_off_policy": 1})


def test_rows_that_hold_no_prompt_are_named(crucible: Crucible, made: Make, tmp_path: Path) -> None:
    experiment = made(None)
    (tmp_path / "train.jsonl").write_text('{"text": "aba"}\n' * 4)
    with pytest.raises(Exception, match=r"neither messages nor a problem; it has text.*data\.mapping"):
        crucible.run(experiment)
