"""Load training and held-out rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from crucible_ir import DataError, DatasetRef, DatasetSnapshot, EventType, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.keys import DATASET, EVAL_DATASET, PROVENANCE
from crucible_kitchen.stages.provenance import require_same
from crucible_train.ports import DatasetStore

__all__ = ["LoadDataset", "rows_for"]


class LoadDataset(Stage):
    """Load training and held-out rows through the dataset store."""

    name = "load_dataset"
    writes: ClassVar[tuple[Key[Any], ...]] = (DATASET, EVAL_DATASET, PROVENANCE)
    optional_reads = (PROVENANCE,)
    ports = ("dataset_store",)
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The dataset is named, reachable, and not smaller than one batch."""
        experiment = plan.experiment
        if experiment.dataset is None:
            return [Problem(path="dataset", message="missing", remedy="name a file, folder or hub id")]
        store: DatasetStore = plan.ports.get("dataset_store")
        for ref in (experiment.dataset, experiment.eval_dataset):
            if ref is not None:
                store.check(ref)
        return self._batch_fits(plan, store)

    def _batch_fits(self, plan: PlanContext, store: DatasetStore) -> Iterable[Problem]:
        ref, training = plan.experiment.dataset, plan.experiment.training
        return [] if ref is None or training is None else rows_for(plan, store, ref, training.batch_size)

    async def run(self, ctx: StageContext) -> None:
        """Load, and say in the log exactly which rows these are; a resumed run takes no others.

        Raises:
            IntegrityError: content, order or transformation differ from those of the checkpoint.
        """
        experiment = ctx.experiment
        assert experiment.dataset is not None
        train = self._load(ctx, experiment.dataset, "train")
        held_out = self._load(ctx, experiment.eval_dataset, "held_out") if experiment.eval_dataset else None
        if not train.rows:
            raise DataError(
                what=f"{train.ref.id!r} has no rows",
                where="dataset",
                remedy="look at split, limit and mapping",
            )
        ctx.set(DATASET, train)
        ctx.set(EVAL_DATASET, held_out)
        provenance = ctx.find(PROVENANCE, {}).copy()
        for name, snapshot in (("dataset", train), ("eval_dataset", held_out)):
            if snapshot is not None:
                ref = snapshot.ref.model_dump(mode="json")
                require_same(name, provenance.get(name), ref)
                provenance[name] = ref
        ctx.set(PROVENANCE, provenance)

    def _load(self, ctx: StageContext, ref: DatasetRef, role: str) -> DatasetSnapshot:
        snapshot: DatasetSnapshot = ctx.prepared.pop(_prepared(ref), None) or ctx.port("dataset_store").load(
            ref
        )
        ctx.emit(
            EventType.DATASET_LOADED,
            {
                "role": role,
                "dataset": snapshot.ref.model_dump(mode="json"),
                "rows": len(snapshot.rows),
                "drops": [{"reason": d.reason, "count": d.count, "first": d.first} for d in snapshot.drops],
            },
        )
        return snapshot


def rows_for(plan: PlanContext, store: DatasetStore, ref: DatasetRef, count: int) -> list[Problem]:
    """Whether a dataset that is here has the rows that each batch takes from it, where batches must be full."""
    training = plan.experiment.training
    if training is None or not training.drop_last or ref.streaming or not _is_here(ref):
        return []
    snapshot = store.load(ref)
    plan.prepared[_prepared(ref)] = snapshot
    rows = len(snapshot.rows)
    if count <= rows:
        return []
    return [
        Problem(
            path="training.batch_size",
            message=f"batch of {count} is larger than the {rows} rows of {ref.id!r}",
            remedy=f"give batch_size ≤ {rows}, or drop_last=false",
        )
    ]


def _is_here(ref: DatasetRef) -> bool:
    """Whether reading it costs no download."""
    return ref.source in ("file", "memory") or (ref.source == "auto" and Path(ref.id).expanduser().exists())


def _prepared(ref: DatasetRef) -> str:
    return f"dataset:{ref.content_digest}"
