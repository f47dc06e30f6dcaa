"""Reward and accuracy of the present weights on held-out problems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from crucible_ir import ExampleResult, Problem
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.environments.environment import HeldOutProblem
from crucible_kitchen.stages.attempts import AttemptOptions, attempts
from crucible_kitchen.stages.evaluation import HeldOutEvaluation
from crucible_kitchen.stages.keys import ENVIRONMENTS, SAMPLER, STEP
from crucible_kitchen.stages.rollouts import RolloutSettings
from crucible_train.rl import TrajectoryGroup, trajectory_metrics

__all__ = ["EvaluateRollouts", "EvaluateRolloutsOptions"]


class EvaluateRolloutsOptions(AttemptOptions):
    """How held-out problems are tried."""

    temperature: float = Field(default=1.0, ge=0)
    """0 takes the likeliest token each time."""


class EvaluateRollouts(HeldOutEvaluation):
    """Try every held-out problem once with the present weights; one record each of reward and correctness.

    An answer that could not be judged has no record: it is counted, and is not a wrong answer.
    """

    name = "evaluate_rollouts"
    reads = (SAMPLER, ENVIRONMENTS, STEP)
    options_model = EvaluateRolloutsOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Held-out problems may be generated, so that no dataset is needed."""
        return []

    async def run(self, ctx: StageContext) -> None:
        """The same problems with the same seeds at every evaluation, so that evaluations are paired."""
        problems, step = ctx.get(ENVIRONMENTS).held_out, ctx.get(STEP)
        if not problems:
            return
        options = self.options
        settings = RolloutSettings(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            max_turns=options.max_turns,
            drop_failed=options.on_error == "drop",
        )
        sampler = await ctx.get(SAMPLER).take(step)
        try:
            groups = await attempts(
                ctx, sampler, problems, settings, purpose=self.name, in_flight=options.in_flight
            )
        finally:
            await ctx.get(SAMPLER).give_back(step)
        failed = sum(not group.trajectories for group in groups)
        metrics = {
            **{f"test/{name}": value for name, value in trajectory_metrics(groups).items()},
            **({"test/rollout_errors/groups": float(failed)} if failed else {}),
        }
        results = ""
        for metric in ("reward", "correct"):
            records = self._records(ctx, problems, groups, metric)
            if records:
                prefix = "accuracy" if metric == "correct" else metric
                results = f"results/{prefix}_{step:06d}.jsonl"
                write_lines(ctx.run_dir / results, [ctx.redact(one.model_dump_json()) for one in records])
        self.tell(ctx, metrics, examples=len(problems), results=results)

    def _records(
        self,
        ctx: StageContext,
        problems: Sequence[HeldOutProblem],
        groups: Sequence[TrajectoryGroup],
        metric: str,
    ) -> list[ExampleResult]:
        found = []
        for problem, group in zip(problems, groups, strict=True):
            if not group.trajectories:
                continue  # its environment failed
            (trajectory,), (final,) = group.trajectories, group.final_rewards
            last = trajectory.transitions[-1]
            if metric == "reward":
                score = None if trajectory.reward is None else trajectory.reward + final
            else:
                score = last.metrics.get("correct")
            if score is None:
                continue
            found.append(
                ExampleResult(
                    example_id=problem.example_id,
                    metric=metric,
                    score=score,
                    verdict=None if metric == "reward" else ("correct" if score else "incorrect"),
                    seed=ctx.experiment.seed,
                    step=ctx.get(STEP),
                    evaluator=self.name,
                    detail=dict(last.logs),
                )
            )
        return found
