"""save_checkpoint, save_weights, register_model, write_report: what a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import CheckpointRef, digest_bytes
from crucible_kitchen.stages.begin_epoch import BeginEpoch
from crucible_kitchen.stages.evaluate_nll import EvaluateNll
from crucible_kitchen.stages.keys import (
    BATCHES,
    CUMULATIVE,
    FINAL_WEIGHTS,
    LAST_CHECKPOINT_STEP,
    LAST_EVALUATION,
    PROVENANCE,
    STEP,
)
from crucible_kitchen.stages.register_model import RegisterModel
from crucible_kitchen.stages.save_checkpoint import SaveCheckpoint
from crucible_kitchen.stages.save_weights import SaveWeights
from crucible_kitchen.stages.write_report import WriteReport
from crucible_registry import SqliteModelRegistry
from crucible_testing.bench import StageBench, toy_experiment

RUN = "run_1_00000000"


def ready(folder: Path, steps: int = 2, **adapters: Any) -> StageBench:
    bench = StageBench(folder / RUN, toy_experiment(folder), adapters=adapters)
    bench.ready()
    bench.turn("epochs", 0)
    bench.run(BeginEpoch)
    for index in range(steps):
        bench.turn("batches", index, bench[BATCHES][index])
        bench.step()
    return bench


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_a_checkpoint_is_saved_after_everything_in_flight_and_then_committed(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveCheckpoint)
    journal = bench.backend.journal
    assert journal.index("await optim_step 1") < journal.index("submit save_state 0")
    (saved,) = bench.of("checkpoint.saved")
    ref = CheckpointRef.model_validate(saved["checkpoint"])
    assert (ref.id, ref.step, ref.produced_by) == ("step_000002", 2, RUN)
    assert Path(ref.path) == tmp_path / RUN / "checkpoints" / "step_000002"
    assert saved["step"] == 2
    assert saved["cursor"] == [0]
    assert saved["metrics_position"] == bench.metrics.position(RUN) == 2
    assert saved["state"] == {
        "cumulative": bench[CUMULATIVE],
        "last_checkpoint_step": 2,
        "provenance": bench[PROVENANCE],
        "step": 2,
    }
    json.dumps(saved)


def test_the_same_step_is_saved_once(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveCheckpoint)
    bench.run(SaveCheckpoint)
    assert len(bench.of("checkpoint.saved")) == 1
    bench[STEP] = 3
    bench.run(SaveCheckpoint)
    assert [saved["step"] for saved in bench.of("checkpoint.saved")] == [2, 3]
    assert bench[LAST_CHECKPOINT_STEP] == 3


# --- final weights ---------------------------------------------------------------------------------------------


def test_final_weights_are_a_checkpoint_of_weights_alone_and_an_artifact(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveWeights)
    ref = CheckpointRef.model_validate(bench[FINAL_WEIGHTS])
    assert (ref.id, ref.content, ref.step, ref.produced_by) == ("final", "sampler", 2, RUN)
    (event,) = bench.of("artifact.written")
    assert event["role"] == "weights"
    assert event["artifact"]["id"] == f"{RUN}/final"
    assert event["artifact"]["uri"] == ref.path
    assert event["artifact"]["digest"] == ref.digest
    journal = bench.backend.journal
    assert journal.index("await optim_step 1") < journal.index("submit save_weights_for_sampler 0")


def test_final_weights_may_have_another_name(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveWeights, checkpoint="epoch-1")
    assert (tmp_path / RUN / "checkpoints" / "epoch-1" / "manifest.json").is_file()


# --- registration ----------------------------------------------------------------------------------------------


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[StageBench]:
    registry = SqliteModelRegistry(root=tmp_path / "registry")
    bench = ready(tmp_path, model_registry=registry)
    bench.run(EvaluateNll, standalone=True)
    bench.run(SaveWeights)
    bench.run(RegisterModel)
    yield bench
    registry.close()


def test_the_model_is_registered_with_its_weights_and_figures(registered: StageBench) -> None:
    (event,) = registered.of("model.registered")
    registry = registered.ports.get("model_registry")
    model = registry.get("toy")
    assert event["new"] is True
    assert event["model"] == model.model_dump(mode="json")
    weights = CheckpointRef.model_validate(registered[FINAL_WEIGHTS])
    assert (model.digest, model.uri, model.produced_by) == (weights.digest, weights.path, RUN)
    assert model.metadata["steps"] == 2
    assert model.metadata["metrics"] == registered[LAST_EVALUATION]
    assert model.metadata["provenance"] == registered[PROVENANCE]


def test_the_lineage_leads_from_data_and_base_model_over_run_and_weights_to_the_model(
    registered: StageBench,
) -> None:
    registry = registered.ports.get("model_registry")
    lineage = [(ref.kind, ref.id) for ref in registry.lineage("model:toy")]
    base, data = registered[PROVENANCE]["model"]["id"], registered[PROVENANCE]["dataset"]["id"]
    assert set(lineage) == {("model", base), ("dataset", data), ("run", RUN), ("checkpoint", "final")}
    assert lineage.index(("run", RUN)) > lineage.index(("dataset", data))
    assert lineage.index(("checkpoint", "final")) > lineage.index(("run", RUN))


def test_registering_again_adds_no_version(registered: StageBench) -> None:
    registered.run(RegisterModel)
    first, second = registered.of("model.registered")
    assert second["new"] is False
    assert second["model"]["version"] == first["model"]["version"]
    assert len(registered.ports.get("model_registry").models("toy")) == 1


def test_a_figure_that_does_not_exist_is_left_out_of_the_model(registered: StageBench) -> None:
    registered[LAST_EVALUATION] = {"test/nll": 1.5, "test/bpb": float("nan")}
    registered[PROVENANCE] = registered[PROVENANCE] | {"other": 1}
    registered.run(RegisterModel)
    assert registered.ports.get("model_registry").get("toy").metadata["metrics"] == {"test/nll": 1.5}


def test_without_a_registry_it_is_said_and_nothing_else_happens(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveWeights)
    bench.run(RegisterModel)
    assert bench.of("model.registered") == []
    (log,) = bench.of("log")
    assert log["level"] == "warning"
    assert "model_registry" in log["message"]


# --- the report ------------------------------------------------------------------------------------------------


def test_both_reports_are_written_whole_and_known_as_artifacts(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(SaveWeights)
    bench.run(WriteReport)
    reports = [event["artifact"] for event in bench.of("artifact.written") if event["role"] == "report"]
    assert [(a["uri"], a["media_type"]) for a in reports] == [
        ("report.md", "text/markdown"),
        ("report.html", "text/html"),
    ]
    for artifact in reports:
        data = (tmp_path / RUN / artifact["uri"]).read_bytes()
        assert artifact["size_bytes"] == len(data)
        assert artifact["digest"] == digest_bytes(data)
        assert RUN.encode() in data


def test_a_report_can_be_written_without_weights(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench.run(WriteReport)
    assert "| weights |" not in (tmp_path / RUN / "report.md").read_text()


def test_secrets_do_not_reach_a_report(tmp_path: Path) -> None:
    bench = ready(tmp_path)
    bench[PROVENANCE] = bench[PROVENANCE] | {"model": {"id": "hunter2", "digest": "d"}}
    bench.run(WriteReport)
    for name in ("report.md", "report.html"):
        text = (tmp_path / RUN / name).read_text()
        assert "hunter2" not in text
        assert "[secret]" in text
