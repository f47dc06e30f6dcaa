"""How often the present weights prefer the chosen completion of held-out pairs."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import ExampleResult
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.stages.compute_reference_logprobs import pair_logprobs
from crucible_kitchen.stages.evaluation import HeldOutEvaluation
from crucible_kitchen.stages.forward_backward_pairs import PairLossOptions
from crucible_kitchen.stages.keys import (
    EVAL_PAIRS,
    EVAL_REFERENCE,
    IN_FLIGHT,
    SESSION,
    STEP,
)
from crucible_train.preference import dpo

__all__ = ["EvaluatePreference", "EvaluatePreferenceOptions"]


class EvaluatePreferenceOptions(PairLossOptions):
    """The loss that is reported, and how it is computed."""

    batch_size: int = Field(default=32, ge=1)
    """Pairs per forward pass; does not change the result."""
    standalone: bool = False
    """Log a row of its own instead of adding to the row of the step that follows."""


class EvaluatePreference(HeldOutEvaluation):
    """Preference accuracy on held-out pairs under the present weights, one record each.

    A pair scores 1 when the chosen completion gained more over the reference than the rejected one, 0 when it
    gained less, and ½ when neither did, so that the untrained policy stands at ½.
    """

    name = "evaluate_preference"
    reads = (SESSION, EVAL_PAIRS, EVAL_REFERENCE, STEP, IN_FLIGHT)
    options_model = EvaluatePreferenceOptions

    async def run(self, ctx: StageContext) -> None:
        """Forward passes only: gradients and weights stay as they are."""
        pairs, step, reference_P2 = ctx.get(EVAL_PAIRS), ctx.get(STEP), ctx.get(EVAL_REFERENCE)
        if not pairs:
            return
        await ctx.get(IN_FLIGHT).settle()
        policy_P2 = await pair_logprobs(ctx, ctx.get(SESSION), pairs, self.options.batch_size)
        value = dpo(
            policy_P2[:, 0], policy_P2[:, 1], reference_P2[:, 0], reference_P2[:, 1], self.options.settings()
        )
        gap_P = (policy_P2[:, 0] - reference_P2[:, 0]) - (policy_P2[:, 1] - reference_P2[:, 1])
        scores = [0.5 if gap == 0 else float(gap > 0) for gap in gap_P.tolist()]
        metrics = {
            "test/preference_accuracy": sum(scores) / len(scores),
            "test/dpo_loss": value.loss,
            "test/margin": value.metrics["margin"],
        }
        name = f"results/preference_{step:06d}.jsonl"
        records = (
            ExampleResult(
                example_id=pair.example_id,
                metric="preference_accuracy",
                score=score,
                seed=ctx.experiment.seed,
                step=step,
                evaluator=self.name,
                detail={"margin": self.options.beta * gap},
            ).model_dump_json()
            for pair, score, gap in zip(pairs, scores, gap_P.tolist(), strict=True)
        )
        write_lines(ctx.run_dir / name, records)
        self.tell(ctx, metrics, examples=len(pairs), results=name)
