"""Whole supervised runs over a backend in numpy, through the Python interface."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import CheckpointRef, ConfigError, Experiment, RunRecord, RunState, ServiceError
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gain
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_testing.bench import plant_bigram, toy_experiment


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def folder_of(crucible: Crucible, record: RunRecord) -> Path:
    return crucible.service.store.open(record.run_id).path


def rows_of(crucible: Crucible, record: RunRecord) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in crucible.metrics(record.run_id).rows]


def weights_of(crucible: Crucible, record: RunRecord) -> str:
    manifest = folder_of(crucible, record) / "checkpoints" / "final" / "manifest.json"
    return str(json.loads(manifest.read_text())["digest"])


def scores_of(crucible: Crucible, record: RunRecord) -> dict[str, str]:
    files = sorted((folder_of(crucible, record) / "results").glob("*.jsonl"))
    return {path.name: path.read_text() for path in files}


def interrupted_after(crucible: Crucible, experiment: Experiment, step: int) -> RunRecord:
    """Run until the checkpoint of ``step`` is saved, and no further."""

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == step:
            raise KeyboardInterrupt

    stopping = Crucible(crucible.service.home.root, listeners=(stop,))
    with pytest.raises(Exception, match="was interrupted"):
        stopping.run(experiment)
    return crucible.list(limit=1).runs[0]


def test_a_run_ends_with_metrics_results_weights_a_model_and_a_report(
    crucible: Crucible, tmp_path: Path
) -> None:
    record = crucible.run(toy_experiment(tmp_path, epochs=2, eval_every=4, save_every=3))
    assert record.state is RunState.COMPLETED
    assert (record.step, record.total_steps) == (8, 8)
    rows = rows_of(crucible, record)
    assert [step for step, _ in rows] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [step for step, metrics in rows if "test/nll" in metrics] == [0, 4, 8]
    folder = folder_of(crucible, record)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "final",
        "step_000003",
        "step_000006",
        "step_000008",
    ]
    assert sorted(scores_of(crucible, record)) == [
        "nll_000000.jsonl",
        "nll_000004.jsonl",
        "nll_000008.jsonl",
        "samples_000000.jsonl",
        "samples_000008.jsonl",
    ]
    assert (folder / "report.md").is_file()
    assert (folder / "report.html").is_file()
    kinds = [event.type for event in crucible.events(record.run_id).events]
    assert kinds.count("model.registered") == 1


def test_the_loss_falls_on_training_and_held_out_examples(crucible: Crucible, tmp_path: Path) -> None:
    record = crucible.run(toy_experiment(tmp_path, epochs=5, eval_every=100))
    rows = rows_of(crucible, record)
    assert rows[-2][1]["train_mean_nll"] < 0.7 * rows[0][1]["train_mean_nll"]
    gain = held_out_gain(folder_of(crucible, record))
    assert gain is not None
    assert gain.difference.interval.low > 0
    assert gain.difference.n == 6
    assert (gain.step_before, gain.step_after) == (0, 20)


def test_a_learning_rate_of_zero_gains_nothing_at_all(crucible: Crucible, tmp_path: Path) -> None:
    record = crucible.run(toy_experiment(tmp_path, learning_rate=0.0, epochs=5, eval_every=100))
    gain = held_out_gain(folder_of(crucible, record))
    assert gain is not None
    assert gain.before == gain.after
    assert (gain.difference.interval.low, gain.difference.interval.high) == (0.0, 0.0)
    assert gain.difference.constant


def test_the_same_experiment_twice_gives_the_same_numbers_and_weights(
    crucible: Crucible, tmp_path: Path
) -> None:
    experiment = toy_experiment(tmp_path, epochs=2, eval_every=3, save_every=2)
    first, second = crucible.run(experiment), crucible.run(experiment)
    assert rows_of(crucible, first) == rows_of(crucible, second)
    assert weights_of(crucible, first) == weights_of(crucible, second)
    assert scores_of(crucible, first) == scores_of(crucible, second)


@pytest.mark.parametrize(("ahead", "steps"), [(1, range(1, 9)), (0, (3,)), (3, (6,))])
def test_resumed_from_any_checkpoint_a_run_ends_as_if_it_had_not_stopped(
    crucible: Crucible, tmp_path: Path, ahead: int, steps: Iterable[int]
) -> None:
    experiment = toy_experiment(tmp_path, epochs=2, eval_every=3, save_every=1, submit_ahead=ahead)
    whole = crucible.run(experiment)
    for step in steps:
        broken = interrupted_after(crucible, experiment, step)
        assert broken.state is RunState.INTERRUPTED
        resumed = crucible.resume(broken.run_id)
        assert resumed.state is RunState.COMPLETED
        assert rows_of(crucible, resumed) == rows_of(crucible, whole)
        assert weights_of(crucible, resumed) == weights_of(crucible, whole)
        assert scores_of(crucible, resumed) == scores_of(crucible, whole)


def test_resumed_from_an_older_checkpoint_a_run_ends_the_same(crucible: Crucible, tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, epochs=2, eval_every=3, save_every=2)
    whole = crucible.run(experiment)
    broken = interrupted_after(crucible, experiment, 6)
    resumed = crucible.resume(broken.run_id, "step_000002")
    assert rows_of(crucible, resumed) == rows_of(crucible, whole)
    assert weights_of(crucible, resumed) == weights_of(crucible, whole)


def test_a_service_that_fails_fails_the_run_which_can_be_resumed(crucible: Crucible, tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, epochs=2, save_every=2)
    whole = crucible.run(experiment)
    broken = toy_experiment(tmp_path, epochs=2, save_every=2, faults={"fail": {"forward_backward": 5}})
    with pytest.raises(ServiceError, match="call 5 was to fail"):
        crucible.run(broken)
    failed = crucible.list(limit=1).runs[0]
    assert failed.state is RunState.FAILED
    resumed = crucible.resume(failed.run_id)
    assert resumed.state is RunState.COMPLETED
    assert rows_of(crucible, resumed) == rows_of(crucible, whole)


def test_a_stage_with_a_retry_policy_outlives_a_call_that_fails_once(
    crucible: Crucible, tmp_path: Path
) -> None:
    faults = {"fail": {"forward_backward": 2}, "fail_when_submitted": True}
    experiment = toy_experiment(tmp_path, faults=faults)
    text = experiment.model_dump_json().replace(
        '"name":"forward_backward","label":null,"options":{},"enabled":true,"retry":{"attempts":1,"wait_s":0.5',
        '"name":"forward_backward","label":null,"options":{},"enabled":true,"retry":{"attempts":2,"wait_s":0.0',
    )
    record = crucible.run(Experiment.parse(text))
    assert record.state is RunState.COMPLETED
    plain = crucible.run(toy_experiment(tmp_path))
    assert weights_of(crucible, record) == weights_of(crucible, plain)
    retried = [e.data for e in crucible.events(record.run_id).events if e.type == "stage.retried"]
    assert len(retried) == 1


def test_a_run_that_goes_astray_is_written_down_as_it_is(crucible: Crucible, tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, eval_every=2, save_every=1, faults={"nan_at": 1})
    record = crucible.run(experiment)
    rows = rows_of(crucible, record)
    losses = [metrics["train_mean_nll"] for _, metrics in rows[:4]]
    assert [math.isnan(loss) for loss in losses] == [False, True, True, True]
    assert math.isnan(rows[-1][1]["test/nll"])
    folder = folder_of(crucible, record)
    assert held_out_gain(folder) is None
    assert "No held-out comparison." in (folder / "report.md").read_text()
    assert math.isnan(record.metrics["test/nll"])
    logged = [e.data for e in crucible.events(record.run_id).events if e.type in ("log", "model.registered")]
    assert [data["message"] for data in logged] == ["not registered: the held-out loss is nan"]


def test_the_model_knows_what_it_was_made_from(crucible: Crucible, tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, eval_every=10)
    record = crucible.run(experiment)
    (event,) = (e for e in crucible.events(record.run_id).events if e.type == "model.registered")
    model = event.data["model"]
    assert event.data["new"] is True
    assert model["produced_by"] == record.run_id
    kinds = [parent.partition(":")[0] for parent in model["parents"]]
    assert kinds == ["checkpoint", "model", "dataset"]
    provenance = model["metadata"]["provenance"]
    assert set(provenance) == {
        *("dataset", "eval_dataset", "model", "tokenizer", "renderer"),
        *("backend", "code", "environment"),
    }
    assert provenance["dataset"]["digest"].startswith("sha256:")
    assert model["metadata"]["steps"] == 4
    assert model["metadata"]["metrics"]["test/nll"] == rows_of(crucible, record)[-1][1]["test/nll"]


def test_without_held_out_rows_nothing_is_evaluated_or_sampled(crucible: Crucible, tmp_path: Path) -> None:
    record = crucible.run(toy_experiment(tmp_path, held_out=0))
    assert scores_of(crucible, record) == {}
    assert all("test/nll" not in metrics for _, metrics in rows_of(crucible, record))
    assert "No held-out comparison." in (folder_of(crucible, record) / "report.md").read_text()


def test_every_saved_state_is_committed_and_the_last_one_is_not_saved_twice(
    crucible: Crucible, tmp_path: Path
) -> None:
    record = crucible.run(toy_experiment(tmp_path, epochs=2, save_every=4))
    saved = [e.data for e in crucible.events(record.run_id).events if e.type == "checkpoint.saved"]
    refs = [CheckpointRef.model_validate(data["checkpoint"]) for data in saved]
    assert [ref.step for ref in refs] == [4, 8]
    assert [data["step"] for data in saved] == [4, 8]
    assert all(ref.produced_by == record.run_id for ref in refs)
    assert saved[0]["state"]["cumulative"]["tokens"] > 0


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(
    crucible: Crucible, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="batch of 40 is larger than the 16 rows"):
        crucible.run(toy_experiment(tmp_path, batch_size=40))
    assert crucible.list().runs == ()


def test_secrets_are_taken_out_of_samples_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    secret = "sk-planted-0123456789abcdef"
    crucible = Crucible(tmp_path / "home", environ={"PROBE_API_KEY": secret})
    experiment = toy_experiment(tmp_path, max_length=256)
    rows = [
        {"messages": [{"role": "user", "content": f"{secret} {n}"}, {"role": "assistant", "content": secret}]}
        for n in range(6)
    ]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = crucible.run(experiment)
    folder = folder_of(crucible, record)
    holders = [p.name for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    assert holders == []
    assert "samples_000004.jsonl" in scores_of(crucible, record)


# --- the workflow as data ------------------------------------------------------------------------------------


def names_of(options: SupervisedOptions) -> str:
    return json.dumps([node.model_dump(mode="json") for node in supervised(options)])


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        (SupervisedOptions(evaluate=False), "evaluate_nll"),
        (SupervisedOptions(sample_prompts=0), "sample_texts"),
        (SupervisedOptions(registered=False), "register_model"),
    ],
)
def test_what_is_not_wanted_is_not_in_the_pipeline(options: SupervisedOptions, absent: str) -> None:
    assert absent not in names_of(options)
    assert absent in names_of(SupervisedOptions())


def test_options_reach_their_stages() -> None:
    options = SupervisedOptions(renderer="qwen3", on_error="drop", eval_batch_size=7, sample_max_tokens=9)
    text = names_of(options)
    assert '"options": {"renderer": "qwen3"}' in text
    assert '"on_error": "drop"' in text
    assert text.count('"batch_size": 7') == 2
    assert text.count('"max_tokens": 9') == 2
