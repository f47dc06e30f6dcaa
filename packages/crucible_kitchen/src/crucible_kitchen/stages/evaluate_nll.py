"""Held-out loss with the present weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from crucible_ir import Contract, ExampleResult
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.evaluation import HeldOutEvaluation
from crucible_kitchen.stages.examples import Example
from crucible_kitchen.stages.keys import (
    EVAL_EXAMPLES,
    IN_FLIGHT,
    SESSION,
    STEP,
    TOKENIZER,
)
from crucible_train.supervised import compute_bpb, compute_mean_nll
from crucible_train.types import ForwardBackwardOutput

__all__ = ["EvaluateNll", "EvaluateNllOptions"]


class EvaluateNllOptions(Contract):
    """How held-out loss is computed."""

    batch_size: int = Field(default=64, ge=1)
    """Examples per forward pass; does not change the result."""
    standalone: bool = False
    """Log a row of its own instead of adding to the row of the step that follows."""


class EvaluateNll(HeldOutEvaluation):
    """Negative log-likelihood of the held-out examples under the present weights, one record each."""

    name = "evaluate_nll"
    reads = (SESSION, EVAL_EXAMPLES, STEP, TOKENIZER, IN_FLIGHT)
    options_model = EvaluateNllOptions

    async def run(self, ctx: StageContext) -> None:
        """Forward passes only: gradients and weights stay as they are.

        An example that was cut before its first trained token has no loss and gets no record.
        """
        examples, step = ctx.get(EVAL_EXAMPLES), ctx.get(STEP)
        if not examples:
            return
        await ctx.get(IN_FLIGHT).settle()
        logprobs = await self._logprobs(ctx, examples)
        weights = [example.datum.weights for example in examples]
        targets = [example.datum.target_tokens for example in examples]
        metrics = {
            "test/nll": compute_mean_nll(logprobs, weights),
            "test/bpb": compute_bpb(logprobs, weights, targets, ctx.get(TOKENIZER)),
        }
        name = f"results/nll_{step:06d}.jsonl"
        records = [
            self._record(ctx, example, logprobs_T, step).model_dump_json()
            for example, logprobs_T in zip(examples, logprobs, strict=True)
            if example.datum.num_loss_tokens > 0
        ]
        write_lines(ctx.run_dir / name, records)
        self.tell(ctx, metrics, examples=len(examples), results=name)

    async def _logprobs(self, ctx: StageContext, examples: Sequence[Example]) -> list[np.ndarray]:
        session, size = ctx.get(SESSION), self.options.batch_size
        handles = [
            session.forward([example.datum for example in examples[start : start + size]])
            for start in range(0, len(examples), size)
        ]
        outputs: list[ForwardBackwardOutput] = []
        for handle in handles:
            outputs.append(await handle)
            ctx.publish("evaluating", {"done": min(len(outputs) * size, len(examples)), "of": len(examples)})
        return [array for output in outputs for array in output.logprobs]

    def _record(
        self, ctx: StageContext, example: Example, logprobs_T: np.ndarray, step: int
    ) -> ExampleResult:
        return ExampleResult(
            example_id=example.example_id,
            metric="nll",
            score=compute_mean_nll([logprobs_T], [example.datum.weights]),
            higher_is_better=False,
            seed=ctx.experiment.seed,
            step=step,
            evaluator=self.name,
        )
