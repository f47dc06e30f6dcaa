from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from crucible_ir import (
    BackendRef,
    ConfigError,
    ConflictError,
    EventType,
    Experiment,
    IntegrityError,
    NotFoundError,
    RunState,
    StorageError,
)
from crucible_ir.redaction import Redactor
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.runs.creation import CreateOptions
from crucible_kitchen.runs.folder import RunFolder, RunSettings
from crucible_kitchen.runs.home import Home, is_run_id, new_run_id
from crucible_kitchen.runs.store import RunStore
from crucible_telemetry.events.log import LogSettings

SECRET = "planted-secret-9317"
MANIFEST = load_manifest("test")
Make = Callable[..., Experiment]


@pytest.fixture
def store(home: Path) -> RunStore:
    numbers = count(1)
    return RunStore(Home(home), make_id=lambda: f"run_{next(numbers)}_0000abcd")


def test_run_ids_have_time_and_eight_hex_digits() -> None:
    assert new_run_id(lambda: 1767225600.9, lambda n: "ab" * n) == "run_1767225600_abababab"
    assert is_run_id(new_run_id(lambda: 1.0))
    assert not any(
        map(is_run_id, ["run_1_ABCDEF01", "run_1_0123", "x", "run_1_01234567\n", "../run_1_01234567"])
    )


def test_the_home_is_the_variable_or_a_folder_of_the_user(tmp_path: Path) -> None:
    assert Home.default({"CRUCIBLE_HOME": str(tmp_path)}).root == tmp_path
    assert Home.default({}).root == Path.home() / ".crucible"


def test_a_created_run_is_whole(store: RunStore, experiment: Make) -> None:
    run = store.create(
        experiment(), MANIFEST, CreateOptions(actor="ann", tags=("x",), idempotency_key="k", parent_run=None)
    )
    record = run.record()
    assert (record.run_id, record.state, record.actor) == ("run_1_0000abcd", RunState.CREATED, "ann")
    assert (record.tags, record.idempotency_key) == (("x",), "k")
    assert record.config_digest == experiment().config_digest
    assert run.experiment() == experiment()
    assert run.manifest() == MANIFEST
    assert sorted(path.name for path in run.path.iterdir()) == ["events.jsonl", "experiment.json"]


def test_a_parent_must_exist(store: RunStore, experiment: Make) -> None:
    parent = store.create(experiment(), MANIFEST)
    child = store.create(experiment(), MANIFEST, CreateOptions(parent_run=parent.run_id))
    assert child.record().parent_run == parent.run_id
    with pytest.raises(NotFoundError, match="no run 'run_9_00000000'"):
        store.create(experiment(), MANIFEST, CreateOptions(parent_run="run_9_00000000"))


def test_a_key_gives_the_same_run_and_refuses_another_experiment(store: RunStore, experiment: Make) -> None:
    options = CreateOptions(idempotency_key="k")
    first = store.create(experiment(), MANIFEST, options)
    assert store.create(experiment(), MANIFEST, options).run_id == first.run_id
    with pytest.raises(
        ConflictError, match=f"'k' belongs to {first.run_id}, which has another configuration"
    ):
        store.create(experiment(turns=9), MANIFEST, options)
    assert len(store.records().records) == 1


def test_a_key_whose_run_was_never_finished_is_used_again(store: RunStore, experiment: Make) -> None:
    options = CreateOptions(idempotency_key="k")
    first = store.create(experiment(), MANIFEST, options)
    shutil.rmtree(first.path)
    assert store.create(experiment(), MANIFEST, options).run_id == first.run_id


CREATE = """
import sys
from crucible_ir import Experiment
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.runs.creation import CreateOptions
from crucible_kitchen.runs.home import Home
from crucible_kitchen.runs.store import RunStore
from pathlib import Path
experiment = Experiment.parse(Path(sys.argv[2]).read_text())
store = RunStore(Home(Path(sys.argv[1])))
sys.stdin.readline()
print(store.create(experiment, load_manifest("test"), CreateOptions(idempotency_key="one")).run_id)
"""


def test_many_processes_with_one_key_make_one_run(home: Path, tmp_path: Path, experiment: Make) -> None:
    spec = tmp_path / "experiment.json"
    spec.write_text(experiment().model_dump_json())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(home), str(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    made = {process.communicate()[0].strip() for process in processes}
    assert len(made) == 1
    assert [path.name for path in (home / "runs").iterdir() if is_run_id(path.name)] == list(made)


def test_a_secret_in_the_experiment_is_refused_by_place_and_not_written(
    home: Path, store: RunStore, experiment: Make
) -> None:
    planted = experiment(text=SECRET).model_copy(
        update={"settings": {"deep": [{"x": f"a {SECRET}"}]}, "metadata": {SECRET: 1}}
    )
    with pytest.raises(ConfigError) as caught:
        store.create(planted, MANIFEST, redactor=Redactor(secrets=frozenset({SECRET})))
    told = str(caught.value)
    assert "pipeline[1].body[0].options.text: holds a secret" in told
    assert "settings.deep[0].x" in told
    assert "metadata: holds a secret" in told
    assert SECRET not in told
    assert not list((home / "runs").glob("run_*"))


def test_a_secret_in_tags_and_actor_is_redacted(home: Path, experiment: Make) -> None:
    settings = RunSettings(redact=Redactor(secrets=frozenset({SECRET})))
    store = RunStore(Home(home), settings=settings)
    run = store.create(experiment(), MANIFEST, CreateOptions(actor=SECRET, tags=(f"t {SECRET}",)))
    assert SECRET not in run.events_path.read_text()


def test_runs_are_opened_by_id_beginning_end_or_last(store: RunStore, experiment: Make) -> None:
    for _ in range(3):
        store.create(experiment(), MANIFEST)
    assert store.open("run_2_0000abcd").run_id == "run_2_0000abcd"
    assert store.open("run_2").run_id == "run_2_0000abcd"
    assert store.open("last").run_id == "run_3_0000abcd"
    assert store.open("3_0000abcd").run_id == "run_3_0000abcd"
    with pytest.raises(ConflictError, match="fits 3 runs"):
        store.open("abcd")
    with pytest.raises(NotFoundError, match=r"no run 'run_20_0000abcd'; did you mean|; did you mean"):
        store.open("run_20_0000abcd")
    with pytest.raises(NotFoundError, match="crucible runs lists them"):
        store.open("../../etc")


def test_the_last_run_of_an_empty_home_is_not_found(store: RunStore) -> None:
    with pytest.raises(NotFoundError, match="no run 'last'"):
        store.open("last")


def test_a_changed_experiment_is_noticed(store: RunStore, experiment: Make) -> None:
    run = store.create(experiment(), MANIFEST)
    path = run.path / "experiment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 9}))
    with pytest.raises(IntegrityError, match="changed after"):
        run.experiment()
    path.unlink()
    with pytest.raises(NotFoundError, match="has no experiment.json"):
        run.experiment()


def test_a_folder_without_a_log_is_no_run(home: Path) -> None:
    empty = RunFolder(home / "runs" / "run_1_00000000")
    for look in (empty.record, empty.experiment, empty.manifest):
        with pytest.raises(NotFoundError, match="there is no run run_1_00000000"):
            look()


# --- the index ---------------------------------------------------------------------------------------------


def test_records_come_newest_first_and_only_growth_is_read(
    home: Path, store: RunStore, experiment: Make
) -> None:
    runs = [store.create(experiment(), MANIFEST) for _ in range(3)]
    assert [r.run_id for r in store.records().records] == [run.run_id for run in reversed(runs)]
    runs[0].append(EventType.RUN_STARTED)
    runs[0].append(EventType.RUN_FAILED, {"error": "broke"})
    states = {r.run_id: r.state for r in store.records().records}
    assert states[runs[0].run_id] is RunState.FAILED
    shutil.rmtree(runs[1].path)
    assert len(store.records().records) == 2
    with sqlite3.connect(home / "index.sqlite") as database:
        rows = database.execute("SELECT run_id, state FROM runs ORDER BY run_id").fetchall()
    database.close()
    assert rows == [("run_1_0000abcd", "failed"), ("run_3_0000abcd", "created")]


def test_a_run_that_says_running_without_an_owner_is_interrupted(store: RunStore, experiment: Make) -> None:
    run = store.create(experiment(), MANIFEST)
    run.append(EventType.RUN_STARTED)
    assert run.logged_record().state is RunState.RUNNING
    assert run.record().state is RunState.INTERRUPTED
    assert store.records().records[0].state is RunState.INTERRUPTED
    with run.lease():
        assert store.records().records[0].state is RunState.RUNNING


def rows_of(home: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(home / "index.sqlite") as database:
        rows = database.execute("SELECT * FROM runs ORDER BY run_id").fetchall()
    database.close()
    return rows


def test_a_rebuilt_index_equals_one_kept_up_by_growth(home: Path, store: RunStore, experiment: Make) -> None:
    runs = [store.create(experiment(), MANIFEST) for _ in range(4)]
    for number, run in enumerate(runs):
        store.records()
        run.append(EventType.RUN_STARTED)
        for step in range(number):
            run.append(EventType.RUN_PROGRESS, {"step": step, "metrics": {"m": float(step)}})
            store.records()
    listing, rows = store.records(), rows_of(home)
    assert store.rebuild_index().damaged == ()
    assert store.records() == listing
    assert rows_of(home) == rows
    (home / "index.sqlite").unlink()
    assert store.records() == listing
    assert rows_of(home) == rows


@pytest.mark.parametrize("damage", ["garbage", "rows", "readonly"])
def test_a_damaged_index_loses_nothing(home: Path, store: RunStore, experiment: Make, damage: str) -> None:
    store.create(experiment(), MANIFEST)
    listing = store.records()
    path = home / "index.sqlite"
    if damage == "garbage":
        path.write_bytes(b"not a database" * 100)
    elif damage == "rows":
        with sqlite3.connect(path) as database:
            database.execute("UPDATE runs SET record = '{}'")
        database.close()
    else:
        path.unlink()
        path.mkdir()
    assert store.records() == listing
    assert store.records() == listing


def test_a_torn_last_line_is_left_out_and_then_cut(store: RunStore, experiment: Make) -> None:
    run = store.create(experiment(), MANIFEST)
    run.append(EventType.RUN_STARTED)
    with run.events_path.open("ab") as stream:
        stream.write(b'{"seq": 3, "run_id": "run_1')
    assert store.records().records[0].last_seq == 2
    assert run.record().last_seq == 2
    run.append(EventType.RUN_FAILED, {"error": "x"})
    record = store.records().records[0]
    assert record.state is RunState.FAILED
    assert [event.type for event in run.events(after=2)] == ["log.recovered", "run.failed"]


@pytest.mark.parametrize("line", [b"not json\n", b'{"seq": 2}\n'])
def test_a_damaged_log_is_listed_apart_and_stops_nobody(
    store: RunStore, experiment: Make, line: bytes
) -> None:
    good, bad = store.create(experiment(), MANIFEST), store.create(experiment(), MANIFEST)
    with bad.events_path.open("ab") as stream:
        stream.write(line)
    listing = store.records()
    assert [record.run_id for record in listing.records] == [good.run_id]
    assert [item.run_id for item in listing.damaged] == [bad.run_id]
    assert "is not an event" in listing.damaged[0].damage
    assert store.records() == listing


def test_an_illegal_life_is_damage(store: RunStore, experiment: Make) -> None:
    run = store.create(experiment(), MANIFEST)
    run.append(EventType.RUN_COMPLETED)
    assert "from created to completed" in store.records().damaged[0].damage


def test_folders_and_files_that_are_no_runs_are_passed_over(
    home: Path, store: RunStore, experiment: Make
) -> None:
    store.create(experiment(), MANIFEST)
    (home / "runs" / "run_7_0000abcd").mkdir()
    (home / "runs" / "run_8_0000abcd").write_text("")
    (home / "runs" / "notes").mkdir()
    assert len(store.records().records) == 1


def test_an_empty_home_has_no_runs_and_stays_empty(home: Path, store: RunStore) -> None:
    assert store.records().records == ()
    assert not home.exists()


# --- faults ------------------------------------------------------------------------------------------------


def full(fd: int, data: bytes) -> int:
    raise OSError(28, os.strerror(28))


def test_a_full_disk_leaves_no_part_of_a_run(home: Path, experiment: Make) -> None:
    store = RunStore(Home(home), settings=RunSettings(log=LogSettings(write=full)))
    with pytest.raises(StorageError):
        store.create(experiment(), MANIFEST)
    assert list((home / "runs").iterdir()) == []


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path, experiment: Make) -> None:
    (tmp_path / "home").write_text("a file")
    store = RunStore(Home(tmp_path / "home"))
    with pytest.raises(StorageError, match="the run cannot be written"):
        store.create(experiment(), MANIFEST)
    with pytest.raises(StorageError, match="the run cannot be written"):
        store.create(experiment(), MANIFEST, CreateOptions(idempotency_key="k"))


def test_a_manifest_path_is_kept_with_the_run(store: RunStore, experiment: Make, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('profile = "mine"\nextends = "offline"\n')
    backend = BackendRef(manifest=str(path))
    run = store.create(experiment().model_copy(update={"backend": backend}), load_manifest(str(path)))
    path.unlink()
    assert run.manifest().profile == "mine"
