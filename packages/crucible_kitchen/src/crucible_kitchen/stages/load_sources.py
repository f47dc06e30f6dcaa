"""Load the rows of every source of a distillation."""

from __future__ import annotations

from collections.abc import Iterable

from crucible_ir import ConfigError, Contract, DataError, DatasetRef, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.stages.keys import PROVENANCE, SOURCES
from crucible_kitchen.stages.load_dataset import LoadDataset, rows_for
from crucible_kitchen.stages.provenance import require_same
from crucible_kitchen.stages.sources import Source
from crucible_train.distillation import source_counts
from crucible_train.ports import DatasetStore

__all__ = ["FurtherSource", "LoadSources", "LoadSourcesOptions"]


class FurtherSource(Contract):
    """Rows beyond those of the experiment's own dataset."""

    name: str
    """Under which its figures are reported."""
    dataset: DatasetRef
    eval_dataset: DatasetRef | None = None


class LoadSourcesOptions(Contract):
    """Names of the sources, and the rows of those that the experiment does not name."""

    name: str
    """Of the experiment's own dataset."""
    more: tuple[FurtherSource, ...] = ()
    """Sources beyond it."""
    weights: tuple[float, ...] = ()
    """Share of each source in a batch of ``training.batch_size`` rows; none where batches are not rows."""


class LoadSources(LoadDataset):
    """Load training and held-out rows of every source through the dataset store."""

    name = "load_sources"
    writes = (SOURCES, PROVENANCE)
    options_model = LoadSourcesOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Names differ, and every dataset is named, reachable, and not smaller than what it gives to a batch."""
        options: LoadSourcesOptions = self.options
        names = [options.name, *(source.name for source in options.more)]
        for twin in sorted({name for name in names if names.count(name) > 1}):
            yield Problem(
                path=f"{plan.path}.options",
                message=f"two sources are called {twin!r}",
                remedy="give each a name of its own",
            )
        yield from super().check(plan)
        store: DatasetStore = plan.ports.get("dataset_store")
        for source in options.more:
            for ref in (source.dataset, source.eval_dataset):
                if ref is not None:
                    store.check(ref)

    def _batch_fits(self, plan: PlanContext, store: DatasetStore) -> Iterable[Problem]:
        options: LoadSourcesOptions = self.options
        training, own = plan.experiment.training, plan.experiment.dataset
        if training is None or own is None or not options.weights:
            return []
        try:
            counts = source_counts(options.weights, training.batch_size)
        except ConfigError as error:
            return list(error.problems)
        refs = [own, *(source.dataset for source in options.more)]
        return [
            problem
            for ref, count in zip(refs, counts, strict=True)
            for problem in rows_for(plan, store, ref, count)
        ]

    async def run(self, ctx: StageContext) -> None:
        """Load, and say in the log exactly which rows these are; a resumed run takes no others.

        Raises:
            DataError: a source has no rows.
            IntegrityError: content, order or transformation differ from those of the checkpoint.
        """
        experiment, options = ctx.experiment, self.options
        assert experiment.dataset is not None
        first = (options.name, experiment.dataset, experiment.eval_dataset)
        more = [(source.name, source.dataset, source.eval_dataset) for source in options.more]
        provenance, sources = ctx.find(PROVENANCE, {}).copy(), list[Source]()
        for number, (name, ref, held_ref) in enumerate([first, *more]):
            ending = f"_{number}" if number else ""
            rows = self._load(ctx, ref, f"train{ending}")
            held_out = self._load(ctx, held_ref, f"held_out{ending}") if held_ref is not None else None
            if not rows.rows:
                raise DataError(
                    what=f"{rows.ref.id!r} has no rows",
                    where=f"dataset{ending}",
                    remedy="look at split, limit and mapping",
                )
            for key, snapshot in ((f"dataset{ending}", rows), (f"eval_dataset{ending}", held_out)):
                if snapshot is not None:
                    fact = snapshot.ref.model_dump(mode="json")
                    require_same(key, provenance.get(key), fact)
                    provenance[key] = fact
            sources.append(Source(name=name, rows=rows, held_out=held_out))
        ctx.set(SOURCES, sources)
        ctx.set(PROVENANCE, provenance)
