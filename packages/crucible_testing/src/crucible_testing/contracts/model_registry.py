"""What every ModelRegistry promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from crucible_ir import (
    ArtifactRef,
    CheckpointRef,
    ConflictError,
    DataError,
    DatasetRef,
    ModelRef,
    NotFoundError,
    Ref,
    RunRef,
)
from crucible_train.ports import ModelRegistry

__all__ = ["ModelRegistryContract"]


def _digest(letter: str) -> str:
    return "sha256:" + letter * 64


def _model(id: str = "chat", **fields: object) -> ModelRef:
    return ModelRef.model_validate({"id": id, "digest": _digest("a"), **fields})


def _other(letter: str, id: str = "chat", **fields: object) -> ModelRef:
    return _model(id, digest=_digest(letter), **fields)


class ModelRegistryContract:
    """Inherit it and give ``open_registry``: each call opens the same storage anew.

    A noop says ``keeps_refs = False``; it promises only to take everything and to find nothing.
    """

    keeps_refs: ClassVar[bool] = True
    survives_reopening: ClassVar[bool] = True

    @pytest.fixture
    def open_registry(self) -> Callable[[], ModelRegistry]:
        """Opens the registry under test."""
        raise NotImplementedError

    @pytest.fixture
    def registry(self, open_registry: Callable[[], ModelRegistry]) -> Iterator[ModelRegistry]:
        """One open registry, empty."""
        registry = open_registry()
        yield registry
        registry.close()

    def test_it_fits_the_port(self, registry: ModelRegistry) -> None:
        assert isinstance(registry, ModelRegistry)
        registry.close()
        registry.close()

    def test_what_is_not_there_is_not_found(self, registry: ModelRegistry) -> None:
        for name in ("model:chat", "dataset:x@sha256:1", "run:1"):
            with pytest.raises(NotFoundError):
                registry.resolve(name)
            with pytest.raises(NotFoundError):
                registry.lineage(name)
            with pytest.raises(NotFoundError):
                registry.descendants(name)
        with pytest.raises(NotFoundError):
            registry.get("chat")
        with pytest.raises(NotFoundError):
            registry.set_alias("chat", "best", "1")
        assert registry.models() == []
        assert registry.refs() == []
        assert registry.aliases("chat") == {}

    def test_versions_are_numbered_and_found(self, registry: ModelRegistry) -> None:
        first, new = registry.register(_other("a", metadata={"nll": 1.5}))
        assert new
        assert first.version is not None
        assert first.metadata == {"nll": 1.5}
        second, new = registry.register(_other("b"))
        assert new
        if not self.keeps_refs:
            return
        assert (first.version, second.version) == ("1", "2")
        assert registry.get("chat") == second
        assert registry.get("chat", "1") == first
        assert registry.resolve("model:chat@1") == first
        assert registry.resolve("model:chat") == second
        registry.register(_other("c", "math"))
        assert registry.models("chat") == [first, second]
        assert len(registry.models()) == 3
        with pytest.raises(NotFoundError, match="'1'"):
            registry.get("chat", "11")
        with pytest.raises(NotFoundError, match="'chat'"):
            registry.get("chatt")

    def test_the_same_identity_is_one_version(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        first, _ = registry.register(_other("a"), identity="sha256:id")
        again, new = registry.register(_other("b", metadata={"other": 1}), identity="sha256:id")
        assert (again, new) == (first, False)
        assert registry.models("chat") == [first]

    def test_without_an_identity_the_content_decides(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        first, _ = registry.register(_model(produced_by="run-1", metadata={"a": 1}))
        assert registry.register(_model(produced_by="run-1", metadata={"a": 2})) == (first, False)
        for change in ({"produced_by": "run-2"}, {"digest": _digest("b")}, {"base_model": "base"}):
            _, new = registry.register(_model(**{"produced_by": "run-1", **change}))
            assert new, change

    def test_one_identity_may_stand_under_two_models(self, registry: ModelRegistry) -> None:
        for name in ("chat", "math"):
            _, new = registry.register(_model(name), identity="sha256:id")
            assert new

    def test_a_version_cannot_be_taken_twice(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        kept, _ = registry.register(_other("a", version="1.0.0"))
        assert kept.version == "1.0.0"
        with pytest.raises(ConflictError, match=r"1\.0\.0"):
            registry.register(_other("b", version="1.0.0"))
        assert registry.models("chat") == [kept]

    def test_automatic_numbers_pass_over_taken_versions(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        registry.register(_other("a", version="2"))
        versions = [registry.register(_other(letter))[0].version for letter in "bc"]
        assert versions == ["3", "4"]

    def test_models_are_listed_by_stage(self, registry: ModelRegistry) -> None:
        staged, _ = registry.register(_other("a", stage="staging"))
        registry.register(_other("b"))
        assert registry.models(stage="staging") == ([staged] if self.keeps_refs else [])
        assert registry.models(stage="production") == []

    def test_an_alias_means_one_version_and_can_move(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        first, second = (registry.register(_other(letter))[0] for letter in "ab")
        registry.set_alias("chat", "champion", "1")
        assert registry.get("chat", "champion") == first
        registry.set_alias("chat", "champion", "2")
        assert registry.get("chat", "champion") == registry.resolve("model:chat@champion") == second
        assert registry.aliases("chat") == {"champion": "2"}
        with pytest.raises(ConflictError):
            registry.set_alias("chat", "1", "2")
        with pytest.raises(NotFoundError):
            registry.set_alias("chat", "best", "9")

    def test_refs_keep_their_type(self, registry: ModelRegistry) -> None:
        refs = [
            DatasetRef(id="data.jsonl", digest=_digest("d"), rows=3, mapping={"prompt": "q"}),
            RunRef(id="run-1", experiment_id="e"),
            CheckpointRef(id="c", path="checkpoints/c", step=3, produced_by="run-1"),
            ArtifactRef(id="report", uri="report.md", produced_by="run-1"),
            Ref(kind="evaluation", id="e-1", produced_by="run-2"),
        ]
        assert [registry.record(ref) for ref in refs] == [(ref, True) for ref in refs]
        if not self.keeps_refs:
            return
        assert registry.refs() == refs
        assert [type(ref) for ref in registry.refs()] == [type(ref) for ref in refs]
        assert registry.refs("run") == [refs[1]]
        assert registry.refs(produced_by="run-1") == refs[2:4]
        assert registry.resolve("dataset:data.jsonl") == refs[0]

    def test_recording_again_keeps_one_and_never_overwrites(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        ref = ArtifactRef(id="report", uri="report.md", digest=_digest("1"))
        registry.record(ref)
        assert registry.record(ref) == (ref, False)
        moved = ref.model_copy(update={"uri": "elsewhere.md"})
        newer = ref.model_copy(update={"digest": _digest("2")})
        assert registry.record(moved) == (moved, True)
        assert registry.record(newer) == (newer, True)
        assert registry.refs("artifact") == [ref, moved, newer]
        assert registry.resolve("artifact:report") == newer
        assert registry.resolve(f"artifact:report@{_digest('1')}") == moved

    def test_models_go_through_register(self, registry: ModelRegistry) -> None:
        with pytest.raises(DataError, match="register"):
            registry.record(_model())

    def test_lineage_gives_each_ancestor_once_parents_first(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        data = DatasetRef(id="data", digest=_digest("1"))
        left = CheckpointRef(id="left", path="l", parents=("dataset:data",))
        right = CheckpointRef(id="right", path="r", parents=("dataset:data",))
        for ref in (data, left, right):
            registry.record(ref)
        model, _ = registry.register(_model(parents=("checkpoint:left", "checkpoint:right", "model:base")))
        chain = registry.lineage("model:chat")
        assert {ref.key for ref in chain} == {
            "dataset:data",
            "checkpoint:left",
            "checkpoint:right",
            "model:base",
        }
        assert len(chain) == 4
        assert chain.index(data) < min(chain.index(left), chain.index(right))
        assert registry.lineage("dataset:data") == []
        below = registry.descendants("dataset:data")
        assert len(below) == 3
        assert below[-1] == model

    def test_edges_stay_with_the_content_they_were_made_from(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        old = DatasetRef(id="data", digest=_digest("1"))
        registry.record(old)
        registry.record(CheckpointRef(id="c", path="c", parents=("dataset:data",)))
        registry.record(DatasetRef(id="data", digest=_digest("2")))
        assert registry.lineage("checkpoint:c") == [old]

    def test_a_parent_kept_later_is_found(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        registry.record(CheckpointRef(id="c", path="c", parents=("run:1", f"dataset:d@{_digest('7')}")))
        assert registry.lineage("checkpoint:c") == [
            Ref(kind="run", id="1"),
            Ref(kind="dataset", id=f"d@{_digest('7')}"),
        ]
        run, data = RunRef(id="1"), DatasetRef(id="d", digest=_digest("7"))
        registry.record(DatasetRef(id="d", digest=_digest("8")))
        registry.record(run)
        registry.record(data)
        assert sorted(ref.key for ref in registry.lineage("checkpoint:c")) == ["dataset:d", "run:1"]
        assert data in registry.lineage("checkpoint:c")
        assert run in registry.lineage("checkpoint:c")

    def test_nothing_is_its_own_ancestor(self, registry: ModelRegistry) -> None:
        if not self.keeps_refs:
            return
        with pytest.raises(DataError, match="ancestor"):
            registry.record(RunRef(id="1", parents=("run:1",)))
        registry.record(RunRef(id="a", parents=("run:b",)))
        registry.record(RunRef(id="b", parents=("run:c",)))
        with pytest.raises(DataError, match="ancestor"):
            registry.record(RunRef(id="c", parents=("run:a",)))
        assert [ref.key for ref in registry.lineage("run:a")] == ["run:c", "run:b"]
        assert [ref.id for ref in registry.refs("run")] == ["a", "b"]

    def test_everything_is_there_after_reopening(self, open_registry: Callable[[], ModelRegistry]) -> None:
        first = open_registry()
        model, _ = first.register(_model(parents=("run:1",)))
        first.record(RunRef(id="1"))
        if self.keeps_refs:
            first.set_alias("chat", "champion", "1")
        first.close()
        second = open_registry()
        if self.keeps_refs and self.survives_reopening:
            assert second.get("chat", "champion") == model
            assert second.lineage("model:chat@1") == [RunRef(id="1")]
        else:
            assert second.models() == []
        second.close()
