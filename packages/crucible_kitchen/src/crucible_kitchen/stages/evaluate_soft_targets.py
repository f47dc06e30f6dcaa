"""How far the present weights are from the teacher on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from crucible_ir import Contract, ExampleResult
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.evaluation import HeldOutEvaluation
from crucible_kitchen.stages.keys import EVAL_EXAMPLES, EVAL_TARGETS, IN_FLIGHT, SESSION, STEP
from crucible_train.distillation import soft_target_kl
from crucible_train.types import Datum

__all__ = ["EvaluateSoftTargets", "EvaluateSoftTargetsOptions"]


class EvaluateSoftTargetsOptions(Contract):
    """How the distance is computed."""

    batch_size: int = Field(default=64, ge=1)
    """Examples per forward pass; does not change the result."""
    standalone: bool = False
    """Log a row of its own instead of adding to the row of the step that follows."""


class EvaluateSoftTargets(HeldOutEvaluation):
    """Divergence of the teacher from the present weights at the positions of held-out answers, one record each."""

    name = "evaluate_soft_targets"
    reads = (SESSION, EVAL_EXAMPLES, EVAL_TARGETS, STEP, IN_FLIGHT)
    options_model = EvaluateSoftTargetsOptions

    async def run(self, ctx: StageContext) -> None:
        """Forward passes only; an example without a trained token has no distance and gets no record."""
        examples, targets, step = ctx.get(EVAL_EXAMPLES), ctx.get(EVAL_TARGETS), ctx.get(STEP)
        if not examples:
            return
        await ctx.get(IN_FLIGHT).settle()
        outputs = await self._logprobs(ctx, targets)
        weights = [datum.weights for datum in targets]
        name = f"results/teacher_kl_{step:06d}.jsonl"
        records = [
            ExampleResult(
                example_id=example.example_id,
                metric="teacher_kl",
                score=soft_target_kl([logprobs], [given]),
                higher_is_better=False,
                seed=ctx.experiment.seed,
                step=step,
                evaluator=self.name,
            )
            for example, logprobs, given in zip(examples, outputs, weights, strict=True)
            if given.any()
        ]
        write_lines(ctx.run_dir / name, [record.model_dump_json() for record in records])
        metrics = {"test/teacher_kl": soft_target_kl(outputs, weights)}
        self.tell(ctx, metrics, examples=len(examples), results=name)

    async def _logprobs(self, ctx: StageContext, targets: Sequence[Datum]) -> list[np.ndarray]:
        session, size = ctx.get(SESSION), self.options.batch_size
        handles = [session.forward(targets[start : start + size]) for start in range(0, len(targets), size)]
        found: list[np.ndarray] = []
        for handle in handles:
            found += (await handle).logprobs
            ctx.publish("evaluating", {"done": len(found), "of": len(targets)})
        return found
