"""Whole preference runs over a backend in numpy: pairs, reference, loss, evaluation, exact resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, DataError, DatasetRef, Experiment, IntegrityError, RunState
from crucible_kitchen.api import Crucible
from crucible_kitchen.reports.facts import held_out_gain
from crucible_kitchen.reports.markdown import gain_sentence
from crucible_kitchen.workflows.preference import PreferenceOptions, preference
from crucible_testing.backend import write_bigram_model
from crucible_testing.bench import plant_bigram, toy_experiment


@pytest.fixture
def crucible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crucible:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return Crucible(tmp_path / "home")


def pair(question: str, chosen: str = "abab", rejected: str = "bbbb") -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected}


def write(path: Path, rows: list[dict[str, Any]]) -> DatasetRef:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetRef(id=str(path), mapping={"schema": "auto"})


def paired(tmp_path: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    questions = ["ab", "ba", "aab", "bba", "abb", "baa", "aabb", "bbaa"]
    plain = toy_experiment(tmp_path, **changes)
    return plain.model_copy(
        update={
            "dataset": write(tmp_path / "pairs.jsonl", [pair(q) for q in questions]),
            "eval_dataset": write(tmp_path / "held_out.jsonl", [pair(q + "a") for q in questions]),
            "pipeline": preference(PreferenceOptions(renderer="role_colon", **(options or {}))),
            "workflow": "preference",
        }
    )


def folder_of(crucible: Crucible, run_id: str) -> Path:
    return crucible.service.store.open(run_id).path


def rows_of(crucible: Crucible, run_id: str) -> list[Any]:
    return [(row.step, row.metrics) for row in crucible.metrics(run_id).rows]


def test_held_out_accuracy_rises_from_a_half_and_the_interval_says_so(
    crucible: Crucible, tmp_path: Path
) -> None:
    record = crucible.run(paired(tmp_path, epochs=5, eval_every=100))
    assert record.state is RunState.COMPLETED
    gain = held_out_gain(folder_of(crucible, record.run_id))
    assert gain is not None
    assert (gain.before, gain.after) == (0.5, 1.0)
    assert gain.difference.interval.low > 0
    assert "held-out preference accuracy 0.5000 → 1.0000 on 8 examples" in gain_sentence(gain)


def test_a_learning_rate_of_zero_prefers_nothing(crucible: Crucible, tmp_path: Path) -> None:
    record = crucible.run(paired(tmp_path, epochs=2, eval_every=100, learning_rate=0.0))
    gain = held_out_gain(folder_of(crucible, record.run_id))
    assert gain is not None
    assert (gain.before, gain.after) == (0.5, 0.5)


def test_the_first_step_has_the_loss_of_a_policy_that_equals_its_reference(
    crucible: Crucible, tmp_path: Path
) -> None:
    record = crucible.run(paired(tmp_path, eval_every=0))
    step, metrics = rows_of(crucible, record.run_id)[0]
    assert step == 0
    assert metrics["dpo_loss"] == pytest.approx(math.log(2))
    assert metrics["accuracy"] == 0.0  # strictly larger, as upstream
    assert metrics["margin"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["num_pairs"] == metrics["num_sequences"] / 2


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_keeps_its_reference_and_trains_each_batch_once(
    crucible: Crucible, tmp_path: Path, step: int
) -> None:
    experiment = paired(tmp_path, epochs=3, save_every=1, eval_every=2)
    whole = crucible.run(experiment)

    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved" and data["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(experiment)
    broken = crucible.list(limit=1).runs[0]
    resumed = crucible.resume(broken.run_id)
    assert rows_of(crucible, resumed.run_id) == rows_of(crucible, whole.run_id)


def test_a_resumed_run_that_lost_its_reference_is_refused(crucible: Crucible, tmp_path: Path) -> None:
    def stop(what: str, data: Any) -> None:
        if what == "checkpoint.saved":
            raise KeyboardInterrupt

    with pytest.raises(Exception, match="was interrupted"):
        Crucible(crucible.service.home.root, listeners=(stop,)).run(paired(tmp_path, epochs=3, save_every=1))
    broken = crucible.list(limit=1).runs[0]
    (folder_of(crucible, broken.run_id) / "results" / "reference_train.jsonl").unlink()
    with pytest.raises(IntegrityError, match="the reference scores are gone"):
        crucible.resume(broken.run_id)


def reused(crucible: Crucible, run_id: str) -> list[str]:
    found = [e.data for e in crucible.events(run_id).events if e.type == "reference.reused"]
    return [data["role"] for data in found]


def test_a_later_run_takes_the_reference_over_and_is_the_same(crucible: Crucible, tmp_path: Path) -> None:
    experiment = paired(tmp_path, epochs=2, eval_every=2)
    first, second = crucible.run(experiment), crucible.run(experiment)
    assert reused(crucible, first.run_id) == []
    assert reused(crucible, second.run_id) == ["train", "held_out"]
    assert rows_of(crucible, second.run_id) == rows_of(crucible, first.run_id)
    kept = [folder_of(crucible, r.run_id) / "results" / "reference_train.jsonl" for r in (first, second)]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_another_reference_or_other_pairs_are_scored_anew(crucible: Crucible, tmp_path: Path) -> None:
    experiment = paired(tmp_path, eval_every=0)
    crucible.run(experiment)
    assert experiment.model is not None
    other = write_bigram_model(tmp_path / "other", seed=9)
    assert reused(crucible, crucible.run(experiment).run_id) == ["train", "held_out"]
    moved = experiment.model.model_copy(update={"id": str(other), "uri": None})
    changes: list[dict[str, Any]] = [
        {"model": moved},
        {"dataset": write(tmp_path / "fewer.jsonl", [pair(q) for q in ("ab", "ba", "aab", "b")])},
    ]
    for change in changes:
        again = crucible.run(experiment.model_copy(update=change))
        assert "train" not in reused(crucible, again.run_id)


def test_kept_scores_whose_bytes_are_damaged_are_computed_again(crucible: Crucible, tmp_path: Path) -> None:
    experiment = paired(tmp_path, eval_every=0)
    first = crucible.run(experiment)
    blobs = [path for path in (crucible.service.home.root / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 2
    for blob in blobs:
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes().replace(b"-", b"+", 1))
    again = crucible.run(experiment)
    assert reused(crucible, again.run_id) == []
    assert rows_of(crucible, again.run_id) == rows_of(crucible, first.run_id)


@pytest.mark.parametrize("options", [{"loss": "ipo"}, {"label_smoothing": 0.1}])
def test_other_forms_of_the_loss_learn_too(
    crucible: Crucible, tmp_path: Path, options: dict[str, Any]
) -> None:
    record = crucible.run(paired(tmp_path, options=options, epochs=5, eval_every=100))
    assert record.metrics["test/preference_accuracy"] == 1.0


def test_ties_are_left_out_and_counted(crucible: Crucible, tmp_path: Path) -> None:
    def labeled(question: str, label: str) -> dict[str, Any]:
        comparison = {
            "prompt_conversation": [{"role": "user", "content": question}],
            "completion_A": [{"role": "assistant", "content": "abab"}],
            "completion_B": [{"role": "assistant", "content": "bbbb"}],
        }
        return {"comparison": comparison, "label": label}

    rows = [labeled(q, label) for q, label in zip(("ab", "ba", "aab", "bba", "abb"), "AABAA", strict=True)]
    rows.append(labeled("tie", "Tie"))
    ref = write(tmp_path / "labeled.jsonl", rows).model_copy(update={"mapping": {}})
    experiment = paired(tmp_path).model_copy(update={"dataset": ref})
    record = crucible.run(experiment)
    said = [event.data for event in crucible.events(record.run_id).events if event.type == "log"]
    assert {"level": "warning", "message": "1 ties left out", "role": "train"} in said


def test_rows_without_pairs_and_options_out_of_range_are_named(crucible: Crucible, tmp_path: Path) -> None:
    chats = toy_experiment(tmp_path)
    wrong = paired(tmp_path).model_copy(update={"dataset": chats.dataset})
    with pytest.raises(DataError, match="the row has no prompt, chosen, rejected"):
        crucible.run(wrong)
    with pytest.raises(ConfigError, match="beta"):
        crucible.plan(
            paired(tmp_path).model_copy(
                update={"pipeline": preference(PreferenceOptions.model_construct(beta=-1.0))}
            )
        )
