from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import ConfigError, ConflictError, Contract, Experiment, NotFoundError, RunState, TrainError
from crucible_kitchen.api import Crucible
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.operations.run_models import RunSpec
from crucible_kitchen.operations.table import OPERATIONS, invoke, operation
from crucible_kitchen.runs.creation import CreateOptions

Make = Callable[..., Experiment]

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture
def crucible(home: Path) -> Crucible:
    return Crucible(home, environ={})


def test_the_table_holds_what_clients_hang_on() -> None:
    assert set(OPERATIONS) == {
        *("create", "run", "resume", "cancel", "decide", "status", "list", "events", "metrics"),
        *(
            "artifacts",
            "fetch",
            "export",
            "plan",
            "render_check",
            "render_show",
            "conformance",
            "conformance_checks",
            "adapters",
            "recipes",
            "workflows",
            "environments",
            "stages",
            "doctor",
        ),
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_row_is_typed_described_and_has_a_method(name: str) -> None:
    row = OPERATIONS[name]
    assert issubclass(row.input_model, Contract)
    assert row.summary.endswith(".")
    described = json.loads(json.dumps(row.describe()))
    assert described["input"]["type"] == "object"
    assert described["output"]["type"] == "object"
    method = getattr(Crucible, name)
    assert method.__doc__
    wanted = row.output_model.__name__
    assert inspect.signature(method).return_annotation.rpartition(".")[2] == wanted


def test_only_operations_that_spend_or_decide_need_approval() -> None:
    asking = {name for name, row in OPERATIONS.items() if row.needs_approval}
    assert asking == {"create", "run", "resume", "decide", "conformance"}
    assert {row.effect for row in OPERATIONS.values()} == {"read", "write", "run"}


def test_an_unknown_operation_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no operation 'statuss'; did you mean 'status'"):
        operation("statuss")
    with pytest.raises(ConfigError, match="operations: plan, create"):
        operation("zzzzz")


def test_operations_take_json_text_mappings_and_contracts(crucible: Crucible, experiment: Make) -> None:
    spec = RunSpec(experiment=experiment())
    as_text = crucible.call("plan", spec.model_dump_json())
    assert as_text == crucible.call("plan", spec) == crucible.call("plan", {"experiment": experiment()})
    assert as_text == invoke(crucible.service, "plan", json.loads(spec.model_dump_json()))


def test_a_wrong_input_tells_every_problem_under_the_operations_name(crucible: Crucible) -> None:
    with pytest.raises(ConfigError) as caught:
        crucible.call("events", {"run_idd": "x", "after": -1})
    told = str(caught.value)
    assert "events.run_idd: unknown key 'run_idd'; did you mean 'run_id'?" in told
    assert "events.after" in told


@pytest.mark.parametrize("payload", [{}, {"recipe": "r", "experiment": None, "config": {}}])
def test_a_run_is_an_experiment_or_a_recipe(crucible: Crucible, payload: dict[str, object]) -> None:
    if payload:
        with pytest.raises(Exception, match="no installed package adds 'r'"):
            crucible.call("plan", payload)
    else:
        with pytest.raises(ConfigError, match="give either 'experiment' or 'recipe'"):
            crucible.call("plan", payload)


def test_config_goes_with_a_recipe(crucible: Crucible, experiment: Make) -> None:
    with pytest.raises(ConfigError, match="'config' goes with 'recipe'"):
        crucible.call("plan", {"experiment": experiment(), "config": {"a": 1}})


def test_plan_checks_everything_and_writes_nothing(home: Path, crucible: Crucible, experiment: Make) -> None:
    report = crucible.plan(experiment(), manifest="test")
    assert report.stages == ("probe_begin", "probe_turn")
    assert report.manifest == "test"
    assert report.adapters["metrics_store"] == "jsonl"
    with pytest.raises(ConfigError) as caught:
        crucible.plan(experiment(hold_att=1, fail_att=2))
    assert len(caught.value.problems) == 2
    assert not home.exists()


def test_run_then_look_at_it_in_every_way(home: Path, crucible: Crucible, experiment: Make) -> None:
    record = crucible.run(experiment(), actor="ann", tags=("t", "probe"), idempotency_key="k")
    assert (record.state, record.actor, record.tags) == (RunState.COMPLETED, "ann", ("probe", "t"))
    assert crucible.run(experiment(), idempotency_key="k") == record
    assert crucible.status(record.run_id) == record == crucible.status("last")
    page = crucible.events("last", limit=3)
    assert [event.seq for event in page.events] == [1, 2, 3]
    assert crucible.events("last", after=page.last_seq).events[0].seq == 4
    assert crucible.events("last", after=10**6).last_seq == 10**6
    assert [row.step for row in crucible.metrics("last").rows] == [1, 2, 3, 4]
    assert [row.step for row in crucible.metrics("last", after_step=2).rows] == [3, 4]
    ids = [ref.id for ref in crucible.artifacts("last").artifacts]
    assert ids == sorted(
        [
            "events.jsonl",
            "experiment.json",
            "metrics.jsonl",
            *(f"checkpoints/step_{n:06d}" for n in range(1, 5)),
        ]
    )


def test_list_filters_and_names_unreadable_runs(home: Path, crucible: Crucible, experiment: Make) -> None:
    done = crucible.run(experiment(), tags=("x",))
    fresh = crucible.create(experiment(), start=False)
    assert {r.run_id for r in crucible.list().runs} == {done.run_id, fresh.run_id}
    assert len(crucible.list(limit=1).runs) == 1
    assert [r.run_id for r in crucible.list(state=RunState.COMPLETED).runs] == [done.run_id]
    assert [r.run_id for r in crucible.list(tag="x").runs] == [done.run_id]
    assert crucible.list(recipe="probe_tune").runs == ()
    (home / "runs" / fresh.run_id / "events.jsonl").write_text("broken\n")
    listing = crucible.list()
    assert [item.run_id for item in listing.unreadable] == [fresh.run_id]
    assert "restore" in listing.unreadable[0].problem


def test_metrics_of_a_manifest_without_a_store_are_empty(
    home: Path, crucible: Crucible, experiment: Make
) -> None:
    manifest = load_manifest("test").model_copy(update={"ports": {}})
    run = crucible.service.store.create(experiment(), manifest, CreateOptions())
    assert crucible.metrics(run.run_id).rows == ()


@pytest.mark.slow
def test_a_thousand_runs_are_listed_within_a_second(home: Path, crucible: Crucible, experiment: Make) -> None:
    first = crucible.create(experiment(), start=False)
    source = home / "runs" / first.run_id
    log, spec = (source / "events.jsonl").read_text(), (source / "experiment.json").read_bytes()
    for number in range(999):
        run_id = f"run_1_{number:08x}"
        folder = home / "runs" / run_id
        folder.mkdir()
        (folder / "events.jsonl").write_text(log.replace(first.run_id, run_id))
        (folder / "experiment.json").write_bytes(spec)
    assert len(crucible.list().runs) == 1000
    started = time.process_time()
    assert len(crucible.list(limit=20).runs) == 20
    assert time.process_time() - started < 1.0


# --- artifacts ---------------------------------------------------------------------------------------------


@pytest.fixture
def finished(crucible: Crucible, experiment: Make) -> str:
    return crucible.run(experiment(turns=1)).run_id


def test_files_and_checkpoints_are_copied_whole(crucible: Crucible, finished: str, tmp_path: Path) -> None:
    copy = crucible.fetch(finished, "metrics.jsonl", tmp_path / "out" / "m.jsonl")
    assert (
        Path(copy.path).read_bytes() == (crucible.service.home.runs / finished / "metrics.jsonl").read_bytes()
    )
    folder = crucible.fetch(finished, "checkpoints/step_000001", tmp_path)
    assert Path(folder.path) == tmp_path / "step_000001"
    assert {p.name for p in Path(folder.path).iterdir()} == {"manifest.json", "weights.json"}
    assert folder.size_bytes == sum(p.stat().st_size for p in Path(folder.path).iterdir())
    one = crucible.fetch(finished, "checkpoints/step_000001/weights.json", tmp_path / "w.json")
    assert one.size_bytes == 12


def test_nothing_is_overwritten(crucible: Crucible, finished: str, tmp_path: Path) -> None:
    crucible.fetch(finished, "metrics.jsonl", tmp_path)
    with pytest.raises(ConflictError, match=r"metrics.jsonl exists"):
        crucible.fetch(finished, "metrics.jsonl", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "/etc/passwd",
        "checkpoints/../../../secret",
        "link",
        "linked/secret",
        "lease.lock",
        ".hidden",
        "..",
        ".",
        "a\\b",
        "metrics.jsonl\0",
        "none",
    ],
)
def test_no_path_leads_out_of_the_run(crucible: Crucible, finished: str, tmp_path: Path, name: str) -> None:
    run = crucible.service.home.runs / finished
    (tmp_path / "secret").write_text("outside")
    (run / "link").symlink_to(tmp_path / "secret")
    (run / "linked").symlink_to(tmp_path)
    (run / ".hidden").write_text("x")
    with pytest.raises(NotFoundError, match="has no artifact"):
        crucible.fetch(finished, name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_misspelt_artifact_is_told_with_the_nearest(
    crucible: Crucible, finished: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"did you mean 'metrics.jsonl'"):
        crucible.fetch(finished, "metric.jsonl", tmp_path / "copy")


def test_links_inside_a_checkpoint_are_left_out(crucible: Crucible, finished: str, tmp_path: Path) -> None:
    folder = crucible.service.home.runs / finished / "checkpoints" / "step_000001"
    (tmp_path / "secret").write_text("outside")
    (folder / "link").symlink_to(tmp_path / "secret")
    copy = Path(crucible.fetch(finished, "checkpoints/step_000001", tmp_path / "copy").path)
    assert {p.name for p in copy.iterdir()} == {"manifest.json", "weights.json"}


def test_a_destination_that_cannot_be_written_is_one_sentence(
    crucible: Crucible, finished: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Exception, match="cannot be written"):
        crucible.fetch(finished, "metrics.jsonl", tmp_path / "file" / "m.jsonl")


def test_artifacts_carry_digests_and_media_types(crucible: Crucible, finished: str) -> None:
    run = crucible.service.store.open(finished)
    (run.path / "results").mkdir()
    for name in ("report.md", "report.html", "results/rows.jsonl", "blob"):
        (run.path / name).write_text("x")
    digest = "sha256:" + "1" * 64
    run.append("artifact.written", {"artifact": {"uri": str(run.path / "report.md"), "digest": digest}})
    found = {ref.id: ref for ref in crucible.artifacts(finished).artifacts}
    assert found["report.md"].digest == digest
    assert found["checkpoints/step_000001"].digest is not None
    types = {
        name: found[name].media_type for name in ("report.md", "report.html", "results/rows.jsonl", "blob")
    }
    assert list(types.values()) == [
        "text/markdown",
        "text/html",
        "application/jsonl",
        "application/octet-stream",
    ]


def test_a_failed_run_of_the_api_raises_and_is_listed(crucible: Crucible, experiment: Make) -> None:
    with pytest.raises(TrainError):
        crucible.run(experiment(fail_at=1))
    assert crucible.list().runs[0].state is RunState.FAILED
    assert crucible.cancel("last").state is RunState.CANCELLED


def test_wrong_arguments_of_a_method_are_told_like_any_wrong_input(crucible: Crucible) -> None:
    with pytest.raises(ConfigError, match=r"^status.run_id: "):
        crucible.status("")
    with pytest.raises(ConfigError, match=r"^list.limit: "):
        crucible.list(limit=0)


def test_adapters_that_checking_built_are_closed(
    crucible: Crucible, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(
        "crucible_kitchen.manifests.ports.ManifestPorts.close", lambda ports: closed.append("closed")
    )
    crucible.plan(experiment())
    crucible.create(experiment(), start=False)
    with pytest.raises(ConfigError):
        crucible.plan(experiment(hold_att=1))
    with pytest.raises(NotFoundError):
        crucible.run(experiment(), parent_run="run_9_00000000")
    assert crucible.run(experiment(), idempotency_key="k") == crucible.run(experiment(), idempotency_key="k")
    assert len(closed) == 5


def test_a_recipe_is_run_by_name_with_its_settings(crucible: Crucible) -> None:
    record = crucible.run("probe_tune", config={"turns": 3}, manifest="test")
    assert (record.recipe, record.step) == ("probe_tune", 3)
    assert crucible.list(recipe="probe_tune").runs == (record,)
    with pytest.raises(ConfigError, match=r"turnss: unknown key 'turnss'; did you mean 'turns'"):
        crucible.plan("probe_tune", config={"turnss": 3})
