"""Turn preferences into pairs of datums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import Contract, DataError, DatasetSnapshot, EventType, Problem
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.capability import require_readable
from crucible_kitchen.stages.cost import announce_cost, trained_tokens
from crucible_kitchen.stages.examples import PairExample
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    DATASET,
    EPOCHS,
    EVAL_DATASET,
    EVAL_PAIRS,
    EXAMPLES,
    PAIRS,
    RENDERER,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.step_plan import plan_steps
from crucible_train.preference import Comparison, comparison_from_dict, pair_datums
from crucible_train.renderers import messages_from_dicts

__all__ = ["BuildComparisons", "BuildComparisonsOptions"]


class BuildComparisonsOptions(Contract):
    """What becomes of rows that cannot be used."""

    on_error: str = Field(default="raise", pattern="^(raise|drop)$")
    """A pair that cannot be rendered: stop, or leave it out, count it and say so. Ties are always left out."""


class BuildComparisons(Stage):
    """Render, tokenise and weight chosen and rejected completions; decide the number of steps."""

    name = "build_comparisons"
    reads = (DATASET, EVAL_DATASET, RENDERER)
    optional_reads = (CUMULATIVE,)
    writes = (PAIRS, EXAMPLES, EVAL_PAIRS, EPOCHS, TOTAL_STEPS, CUMULATIVE)
    optional_ports = ("training_backend",)
    options_model = BuildComparisonsOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Nothing is asked for that a loss over whole batches of pairs cannot act on."""
        training = plan.experiment.training
        given = {
            "loss": training is not None and training.loss != "cross_entropy",
            "loss_config": training is not None and bool(training.loss_config),
            "micro_batch_size": training is not None and training.micro_batch_size is not None,
        }
        return [
            Problem(
                path=f"training.{name}",
                message="preference training does not act on it",
                remedy="leave it out; forward_backward_pairs has its own loss, and a batch is one pass",
            )
            for name, there in given.items()
            if there
        ]

    async def run(self, ctx: StageContext) -> None:
        """Both completions of a pair are built or neither, so pairs never come apart."""
        held_out = ctx.get(EVAL_DATASET)
        pairs = self._build(ctx, ctx.get(DATASET), "train")
        ctx.set(PAIRS, pairs)
        ctx.set(EXAMPLES, pairs)
        ctx.set(EVAL_PAIRS, self._build(ctx, held_out, "held_out") if held_out else [])
        plan_steps(ctx, len(pairs))
        lengths = [pair.chosen.model_input.length + pair.rejected.model_input.length for pair in pairs]
        tokens = trained_tokens(lengths, ctx.get(TOTAL_STEPS), ctx.training.batch_size)
        announce_cost(ctx, trained=tokens, scored=tokens, without="reference and evaluation")

    def _build(self, ctx: StageContext, snapshot: DatasetSnapshot, role: str) -> list[PairExample]:
        pairs, dropped, ties = list[PairExample](), list[str](), 0
        for number, row in enumerate(snapshot.rows):
            where = f"{snapshot.ref.id}, row {number} after ordering"
            try:
                comparison = comparison_of(row, where=where)
                if comparison is None:
                    ties += 1
                    continue
                made = pair_datums(comparison, ctx.get(RENDERER), ctx.training.max_length)
                pairs.append(
                    PairExample(example_id=example_id(row), chosen=made.chosen, rejected=made.rejected)
                )
            except DataError as error:
                if self.options.on_error == "raise":
                    raise DataError(
                        what=str(error), where=where, remedy="mend the row, or set on_error=drop"
                    ) from error
                dropped.append(f"{where}: {error}")
        lengths = (side.model_input.length for pair in pairs for side in (pair.chosen, pair.rejected))
        require_readable(ctx, lengths, role=role)
        for count, what in ((ties, "ties"), (len(dropped), "rows that cannot be rendered")):
            if count:
                first = {"first": dropped[0]} if dropped and what != "ties" else {}
                message = f"{count} {what} left out"
                ctx.emit(EventType.LOG, {"level": "warning", "message": message, "role": role, **first})
        if not pairs:
            raise DataError(
                what="no pair is left",
                where=snapshot.ref.id,
                remedy=dropped[0] if dropped else "give pairs that are not ties",
            )
        return pairs


def comparison_of(row: Mapping[str, Any], *, where: str) -> Comparison | None:
    """The row's comparison with the chosen completion as A; None for a tie.

    Rows are ``{prompt, chosen, rejected}`` as the preference mapping makes them, or labelled comparisons.

    Raises:
        DataError: it is neither.
    """
    if "comparison" in row:
        labeled = comparison_from_dict(row, where=where)
        if labeled.label == "Tie":
            return None
        return labeled.comparison if labeled.label == "A" else labeled.comparison.swap()
    missing = [name for name in ("prompt", "chosen", "rejected") if name not in row]
    if missing:
        raise DataError(
            what=f"the row has no {', '.join(missing)}; it has {', '.join(sorted(row))}",
            where=where,
            remedy='say which columns carry them, such as data.mapping={"schema":"preference"}',
        )
    prompt, chosen, rejected = (
        tuple(messages_from_dicts(row[name], where=f"{where}.{name}"))
        for name in ("prompt", "chosen", "rejected")
    )
    return Comparison(prompt_conversation=prompt, completion_a=chosen, completion_b=rejected)
