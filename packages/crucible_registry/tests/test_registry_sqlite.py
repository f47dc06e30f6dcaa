"""The SQLite registry: several processes, damaged files, cycles made behind its back."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import (
    ConflictError,
    DataError,
    DatasetRef,
    IntegrityError,
    ModelRef,
    NotFoundError,
    Ref,
    RunRef,
    StorageError,
)
from crucible_registry import SqliteModelRegistry
from crucible_registry.lineage import reachable, sorted_parents_first
from crucible_registry.names import default_identity

REGISTER = """
import sys
from pathlib import Path
from crucible_ir import ModelRef, RunRef
from crucible_registry import SqliteModelRegistry
registry = SqliteModelRegistry(root=Path(sys.argv[1]))
sys.stdin.readline()
for n in range(10):
    _, new = registry.register(ModelRef(id="chat", metadata={"by": sys.argv[2]}), identity=f"identity-{n}")
    print(int(new))
    registry.record(RunRef(id=f"run-{n}"))
"""


@pytest.fixture
def registry(tmp_path):
    registry = SqliteModelRegistry(root=tmp_path, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))
    yield registry
    registry.close()


def test_processes_that_register_the_same_identities_make_one_row_each(tmp_path, registry):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTER, str(tmp_path), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    created = 0
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        created += sum(map(int, out.split()))
    assert created == 10
    assert [model.version for model in registry.models("chat")] == [str(n) for n in range(1, 11)]
    assert len(registry.refs("run")) == 10


def test_the_database_itself_refuses_a_second_row_of_an_identity(registry):
    registry.register(ModelRef(id="chat"), identity="one")
    db = sqlite3.connect(registry.path)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        db.execute(
            "INSERT INTO refs (kind, id, type, identity, body, kept_at)"
            " SELECT kind, id, type, identity, body, kept_at FROM refs"
        )
    db.close()


@given(st.permutations(["digest", "base_model", "produced_by", "parents"]), st.integers(0, 3))
def test_the_identity_follows_the_content_and_nothing_else(order, changed):
    values = {
        "digest": "sha256:" + "a" * 64,
        "base_model": "base",
        "produced_by": "run-1",
        "parents": ("run:run-1", "dataset:d"),
    }
    model = ModelRef(id="chat", **{key: values[key] for key in order})
    same = model.model_copy(
        update={"version": "9", "stage": "staging", "metadata": {"x": 1}, "uri": "elsewhere"}
    )
    assert default_identity(model) == default_identity(same)
    other = {"digest": "sha256:" + "b" * 64, "base_model": "b", "produced_by": "r", "parents": ("run:run-1",)}
    field = order[changed]
    assert default_identity(model) != default_identity(model.model_copy(update={field: other[field]}))
    assert default_identity(model) != default_identity(model.model_copy(update={"id": "math"}))


def test_a_version_may_not_have_the_name_of_an_alias(registry):
    registry.register(ModelRef(id="chat"), identity="one")
    registry.set_alias("chat", "champion", "1")
    with pytest.raises(ConflictError, match="an alias"):
        registry.register(ModelRef(id="chat", version="champion"), identity="two")


def test_an_alias_of_an_alias_means_its_version(registry):
    registry.register(ModelRef(id="chat"), identity="one")
    registry.set_alias("chat", "champion", "1")
    registry.set_alias("chat", "best", "champion")
    assert registry.aliases("chat") == {"best": "1", "champion": "1"}


def test_a_model_is_found_by_its_digest(registry):
    digest = "sha256:" + "c" * 64
    kept, _ = registry.register(ModelRef(id="chat", digest=digest))
    assert registry.resolve(f"model:chat@{digest}") == registry.get("chat", digest) == kept


def test_an_id_with_an_at_sign_is_not_cut(registry):
    ref = DatasetRef(id="data@home/train.jsonl")
    registry.record(ref)
    assert registry.resolve("dataset:data@home/train.jsonl") == ref


def test_a_newer_version_may_come_from_an_older_one_of_its_name(registry):
    first, _ = registry.register(ModelRef(id="chat"), identity="one")
    registry.register(ModelRef(id="chat", parents=("model:chat",)), identity="two")
    third, _ = registry.register(ModelRef(id="chat", parents=("model:chat@2",)), identity="three")
    assert [model.version for model in registry.lineage("model:chat")] == ["1", "2"]
    assert registry.descendants("model:chat@1")[-1] == third
    assert registry.lineage("model:chat@1") == []
    assert first.version == "1"


def test_descendants_of_a_name_are_those_of_all_its_contents(registry):
    for letter in "ab":
        registry.record(DatasetRef(id="d", digest="sha256:" + letter * 64))
        registry.record(RunRef(id=f"run-{letter}", parents=("dataset:d",)))
    assert [ref.id for ref in registry.descendants("dataset:d")] == ["run-a", "run-b"]
    assert [ref.id for ref in registry.descendants("dataset:d@sha256:" + "a" * 64)] == ["run-a"]


def test_a_parent_named_twice_is_one_edge(registry):
    registry.record(RunRef(id="1", parents=("dataset:d", "dataset:d")))
    assert registry.lineage("run:1") == [Ref(kind="dataset", id="d")]


@pytest.mark.parametrize("name", ["", "model", "model:", ":chat"])
def test_what_is_no_name_is_refused(registry, name):
    with pytest.raises(DataError, match="kind:id"):
        registry.resolve(name)


def test_the_nearest_name_is_told(registry):
    registry.record(RunRef(id="run-1"))
    with pytest.raises(NotFoundError, match="did you mean 'run:run-1'"):
        registry.resolve("run:run1")
    registry.register(ModelRef(id="chat"), identity="one")
    with pytest.raises(NotFoundError, match="it has 1"):
        registry.get("chat", "zzz")


def test_a_type_of_ref_that_cannot_come_back_is_refused(registry):
    class Strange(Ref):
        more: int = 1

    with pytest.raises(DataError, match="Strange"):
        registry.record(Strange(kind="strange", id="1"))


def test_a_cycle_made_behind_the_registrys_back_is_found(registry):
    registry.record(RunRef(id="a"))
    registry.record(RunRef(id="b", parents=("run:a",)))
    db = sqlite3.connect(registry.path, isolation_level=None)
    db.execute("INSERT INTO edges SELECT 1, 0, 'run:b', 2")
    db.close()
    for walk in (registry.lineage, registry.descendants):
        with pytest.raises(IntegrityError, match=r"cycle: .* → "):
            walk("run:a")


def test_a_damaged_body_is_named(registry):
    registry.record(RunRef(id="a"))
    registry.register(ModelRef(id="chat"), identity="one")
    db = sqlite3.connect(registry.path, isolation_level=None)
    db.execute("UPDATE refs SET body = '{' WHERE node = 1")
    db.execute("UPDATE refs SET type = 'Ref' WHERE node = 2")
    db.close()
    with pytest.raises(IntegrityError, match="ref 1 cannot be read"):
        registry.resolve("run:a")
    with pytest.raises(IntegrityError, match="ref 2"):
        registry.get("chat")
    with pytest.raises(IntegrityError, match="ref 2"):
        registry.models()


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "registry.sqlite").write_bytes(b"plain text, long enough to be read as a page" * 50)
    with pytest.raises(IntegrityError, match=r"registry\.sqlite"):
        SqliteModelRegistry(root=tmp_path).models()


def test_a_held_file_is_a_conflict(tmp_path):
    registry = SqliteModelRegistry(root=tmp_path, lock_timeout_s=0.02)
    registry.record(RunRef(id="a"))
    holder = sqlite3.connect(registry.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConflictError, match="another process"):
        registry.record(RunRef(id="b"))
    holder.execute("ROLLBACK")
    holder.close()
    assert registry.record(RunRef(id="b"))[1] is True
    registry.close()


def test_a_folder_that_cannot_be_made_and_a_full_file_are_storage_errors(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        SqliteModelRegistry(root=tmp_path / "file").models()
    registry = SqliteModelRegistry(root=tmp_path)
    registry.record(RunRef(id="first"))
    with registry._database.reading() as db:
        db.execute("PRAGMA max_page_count = 12").fetchall()

    def fill():
        for n in range(1000):
            registry.record(RunRef(id=f"run-{n}", parents=tuple(f"dataset:{k}" for k in range(20))))

    with pytest.raises(StorageError, match="full"):
        fill()
    kept = registry.refs("run")
    assert kept[0] == RunRef(id="first")
    assert all(len(registry.lineage(ref.key)) == 20 for ref in kept[1:])
    registry.close()


def test_a_walk_visits_each_node_once_and_sorts_parents_first():
    parents = {1: [], 2: [1], 3: [1], 4: [2, 3], 5: [4, 1, "run:x"]}
    nodes = reachable([5], lambda node: parents.get(node, []))
    assert sorted(map(str, nodes)) == ["1", "2", "3", "4", "5", "run:x"]
    order = sorted_parents_first(nodes, lambda node: parents.get(node, []))
    for child, above in parents.items():
        for parent in above:
            assert order.index(parent) < order.index(child)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_any_graph_without_a_cycle_sorts_parents_first(pairs):
    parents = {n: sorted({low for low, high in pairs if high == n and low < n}) for n in range(13)}
    order = sorted_parents_first(range(13), lambda node: parents[node])
    assert sorted(order) == list(range(13))
    assert all(order.index(parent) < order.index(child) for child in parents for parent in parents[child])


def test_a_file_that_another_process_is_setting_up_is_waited_for(tmp_path, monkeypatch):
    refusals = iter([True, True, False])
    closed = []

    class Busy(sqlite3.Connection):
        def execute(self, sql, *rest):
            if "journal_mode" in sql and next(refusals, False):
                raise sqlite3.OperationalError("database is locked")
            return super().execute(sql, *rest)

        def close(self):
            closed.append(self)
            super().close()

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, **options, factory=Busy))
    registry = SqliteModelRegistry(root=tmp_path)
    assert registry.record(RunRef(id="a"))[1] is True
    registry.close()
    assert len(closed) == 3
    refusals = iter([True] * 100)
    impatient = SqliteModelRegistry(root=tmp_path, lock_timeout_s=0.0)
    with pytest.raises(ConflictError, match="another process"):
        impatient.models()
