"""Turn conversations into training examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import Contract, DataError, DatasetSnapshot, EventType, Problem, Row
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_kitchen.stages.capability import require_readable
from crucible_kitchen.stages.cost import announce_cost, trained_tokens
from crucible_kitchen.stages.examples import Example
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    DATASET,
    EPOCHS,
    EVAL_DATASET,
    EVAL_EXAMPLES,
    EXAMPLES,
    RENDERER,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.step_plan import plan_steps
from crucible_train.renderers import TrainOnWhat, message_from_dict
from crucible_train.supervised import conversation_to_datum

__all__ = ["BuildDatums", "BuildDatumsOptions"]

_SHOW_EVERY = 200


class BuildDatumsOptions(Contract):
    """How conversations become tokens and weights."""

    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    reduction: str = Field(default="mean", pattern="^(mean|none)$")
    """``mean`` lets the weights of each example sum to 1, as upstream does; ``none`` gives each token 1."""
    on_error: str = Field(default="raise", pattern="^(raise|drop)$")
    """What to do with a row that cannot be rendered: stop, or leave it out, count it and say so."""


class BuildDatums(Stage):
    """Render, tokenise and weight every conversation; decide the number of steps."""

    name = "build_datums"
    reads: ClassVar[tuple[Key[Any], ...]] = (DATASET, EVAL_DATASET, RENDERER)
    optional_reads = (CUMULATIVE,)
    writes: ClassVar[tuple[Key[Any], ...]] = (EXAMPLES, EVAL_EXAMPLES, EPOCHS, TOTAL_STEPS, CUMULATIVE)
    optional_ports = ("training_backend",)
    options_model = BuildDatumsOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The loss is one for which conversations hold all that it needs."""
        training = plan.experiment.training
        if training is None or training.loss == "cross_entropy":
            return []
        return [
            Problem(
                path="training.loss",
                message=f"{training.loss!r} needs sampled log-probabilities, which conversations do not hold",
                remedy="use cross_entropy here",
            )
        ]

    async def run(self, ctx: StageContext) -> None:
        """Training examples, held-out examples, and T, which schedules need before the loop."""
        examples = self._build(ctx, ctx.get(DATASET), "train")
        held_out = ctx.get(EVAL_DATASET)
        ctx.set(EXAMPLES, examples)
        ctx.set(EVAL_EXAMPLES, self._build(ctx, held_out, "held_out") if held_out else [])
        plan_steps(ctx, len(examples))
        lengths = [example.datum.model_input.length for example in examples]
        tokens = trained_tokens(lengths, ctx.get(TOTAL_STEPS), ctx.training.batch_size)
        announce_cost(ctx, trained=tokens, without="evaluation and samples")

    def _build(self, ctx: StageContext, snapshot: DatasetSnapshot, role: str) -> list[Example]:
        examples, dropped = list[Example](), list[str]()
        for number, row in enumerate(snapshot.rows):
            try:
                examples.append(self._example(ctx, _messages_of(row), example_id(row)))
            except DataError as error:
                where = f"{snapshot.ref.id}, row {number} after ordering"
                if self.options.on_error == "raise":
                    raise DataError(
                        what=str(error), where=where, remedy="mend the row, or set on_error=drop"
                    ) from error
                dropped.append(f"{where}: {error}")
            if number % _SHOW_EVERY == 0:
                ctx.publish("rendering", {"role": role, "done": number, "of": len(snapshot.rows)})
        if dropped:
            ctx.emit(
                EventType.LOG,
                {
                    "level": "warning",
                    "message": f"{len(dropped)} rows left out",
                    "role": role,
                    "first": dropped[0],
                },
            )
        require_readable(ctx, (example.datum.model_input.length for example in examples), role=role)
        self._look_for_silent(ctx, examples, role)
        self._look_for_rewritten(ctx, examples, role)
        if not examples and role == "train":
            raise DataError(
                what="no row could be rendered",
                where=snapshot.ref.id,
                remedy=dropped[0] if dropped else "look at the dataset",
            )
        return examples

    def _look_for_silent(self, ctx: StageContext, examples: Sequence[Example], role: str) -> None:
        """Examples that were cut before their first trained token: some are worth a warning, all are an error."""
        silent = sum(example.datum.num_loss_tokens == 0 for example in examples)
        if not silent:
            return
        cut = f"no trained token left within max_length={ctx.training.max_length}"
        if silent == len(examples):
            raise DataError(
                what=f"all {silent} {role} examples have {cut}",
                where="max_length",
                remedy="raise max_length, or look at train_on_what",
            )
        message = f"{silent} of {len(examples)} examples have {cut}; they count in batches and teach nothing"
        ctx.emit(EventType.LOG, {"level": "warning", "message": message, "role": role})

    def _look_for_rewritten(self, ctx: StageContext, examples: Sequence[Example], role: str) -> None:
        """Turns that are trained as history has them, in a format that rewrites history, are worth a warning."""
        renderer, what = ctx.get(RENDERER), self.options.train_on_what
        if renderer.has_extension_property or what is TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            return
        several = sum(
            sum(message.get("role") == "assistant" for message in example.messages) > 1
            for example in examples
        )
        if several:
            message = (
                f"{several} of {len(examples)} examples train earlier turns as {renderer.name!r} writes them "
                "into history, which is not how they are sampled; "
                "train_on_what=last_assistant_message trains the last turn alone"
            )
            ctx.emit(EventType.LOG, {"level": "warning", "message": message, "role": role})

    def _example(self, ctx: StageContext, messages: Sequence[dict[str, Any]], identity: str) -> Example:
        datum = conversation_to_datum(
            [message_from_dict(message) for message in messages],
            ctx.get(RENDERER),
            max_length=ctx.training.max_length,
            train_on_what=self.options.train_on_what,
            reduction=self.options.reduction,
        )
        return Example(
            example_id=identity, datum=datum, messages=tuple(dict(message) for message in messages)
        )


def _messages_of(row: Row) -> Sequence[dict[str, Any]]:
    messages: Sequence[dict[str, Any]] | None = row.get("messages")
    if messages is None:
        raise DataError(
            what=f"the row has no messages; it has {', '.join(sorted(row))}",
            where="messages",
            remedy='say which columns carry the conversation, such as data.mapping={"schema":"prompt_completion"}',
        )
    return messages
