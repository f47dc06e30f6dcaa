"""Turn the conversations of several sources into training examples."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.build_datums import BuildDatums, BuildDatumsOptions
from crucible_kitchen.stages.cost import announce_cost, trained_tokens
from crucible_kitchen.stages.examples import Example
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    EPOCHS,
    EVAL_EXAMPLES,
    EVAL_MIXTURE,
    EXAMPLES,
    MIXTURE,
    RENDERER,
    SOURCES,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.sources import Mixture
from crucible_kitchen.stages.step_plan import plan_steps
from crucible_train.distillation import source_counts

__all__ = ["BuildSourceDatums", "BuildSourceDatumsOptions"]


class BuildSourceDatumsOptions(BuildDatumsOptions):
    """How conversations become tokens and weights, and how much each source gives to a batch."""

    weights: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    """Share of each source, in order."""


class BuildSourceDatums(BuildDatums):
    """Render, tokenise and weight the conversations of every source; decide the number of steps."""

    name = "build_source_datums"
    reads = (SOURCES, RENDERER)
    optional_reads = (CUMULATIVE,)
    writes = (EXAMPLES, EVAL_EXAMPLES, MIXTURE, EVAL_MIXTURE, EPOCHS, TOTAL_STEPS, CUMULATIVE)
    options_model = BuildSourceDatumsOptions

    async def run(self, ctx: StageContext) -> None:
        """Examples of the first source first; an epoch ends where the first source is used up."""
        training, sources = ctx.training, ctx.get(SOURCES)
        train, held_out = list[Sequence[Example]](), list[Sequence[Example]]()
        for number, source in enumerate(sources):
            ending = f"_{number}" if number else ""
            train.append(self._build(ctx, source.rows, f"train{ending}"))
            rows = source.held_out
            held_out.append(self._build(ctx, rows, f"held_out{ending}") if rows is not None else [])
        counts = tuple(source_counts(self.options.weights, training.batch_size))
        mixture = Mixture(sizes=tuple(map(len, train)), counts=counts)
        ctx.set(EXAMPLES, [example for examples in train for example in examples])
        ctx.set(EVAL_EXAMPLES, [example for examples in held_out for example in examples])
        ctx.set(MIXTURE, mixture)
        ctx.set(EVAL_MIXTURE, Mixture(sizes=tuple(map(len, held_out)), counts=counts))
        plan_steps(ctx, sum(mixture.sizes), mixture.per_epoch(drop_last=training.drop_last))
        tokens = sum(
            trained_tokens([one.datum.model_input.length for one in examples], ctx.get(TOTAL_STEPS), count)
            for examples, count in zip(train, counts, strict=True)
        )
        announce_cost(ctx, trained=tokens, without="teachers and evaluation")
