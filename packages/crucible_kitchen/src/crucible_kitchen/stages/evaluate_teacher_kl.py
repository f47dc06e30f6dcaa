"""How far the present weights are from their teachers on held-out prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from crucible_ir import ExampleResult, Problem
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.stages.attempts import AttemptOptions, attempts
from crucible_kitchen.stages.evaluation import HeldOutEvaluation
from crucible_kitchen.stages.keys import HELD_OUT_PROMPTS, SAMPLER, SOURCES, STEP, TEACHERS
from crucible_kitchen.stages.rollouts import RolloutSettings
from crucible_kitchen.stages.teacher_kl import TeacherKl, score_by_teacher, source_of, taught_tokens
from crucible_train.rl import TrajectoryGroup, assemble_training_data, log_ratios

__all__ = ["EvaluateTeacherKl"]


class EvaluateTeacherKl(HeldOutEvaluation):
    """Answer every held-out prompt once; one record each of how much likelier it is to the student than to its teacher.

    The mean over answers that the student draws at temperature 1 estimates KL(student‖teacher) per token.
    """

    name = "evaluate_teacher_kl"
    reads = (SAMPLER, HELD_OUT_PROMPTS, SOURCES, STEP, TEACHERS)
    options_model = AttemptOptions

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """Prompts may be held out by a source other than the experiment's own."""
        return []

    async def run(self, ctx: StageContext) -> None:
        """The same prompts with the same seeds at every evaluation, so that evaluations are paired."""
        prompts, step, options = ctx.get(HELD_OUT_PROMPTS), ctx.get(STEP), self.options
        if not prompts:
            return
        settings = RolloutSettings(
            max_tokens=options.max_tokens,
            max_turns=options.max_turns,
            drop_failed=options.on_error == "drop",
        )
        sampler = await ctx.get(SAMPLER).take(step)
        try:
            tried = await attempts(
                ctx, sampler, prompts, settings, purpose=self.name, in_flight=options.in_flight
            )
        finally:
            await ctx.get(SAMPLER).give_back(step)
        finished = [
            (prompt, group) for prompt, group in zip(prompts, tried, strict=True) if group.trajectories
        ]
        groups, failed = [group for _, group in finished], len(tried) - len(finished)
        several = len(ctx.get(SOURCES)) > 1
        total, of_each = await self._distances(ctx, groups)
        metrics = {
            f"test/{name}": value for name, value in total.metrics().items() if several or "/" not in name
        } | ({"test/rollout_errors/groups": float(failed)} if failed else {})
        results = f"results/teacher_kl_{step:06d}.jsonl"
        records = [
            ExampleResult(
                example_id=prompt.example_id,
                metric="teacher_kl",
                score=ratio / tokens,
                higher_is_better=False,
                seed=ctx.experiment.seed,
                step=step,
                evaluator=self.name,
                detail={**group.trajectories[0].transitions[-1].logs, "tokens": tokens},
            )
            for (prompt, group), (ratio, tokens) in zip(finished, of_each, strict=True)
            if tokens
        ]
        write_lines(ctx.run_dir / results, [ctx.redact(record.model_dump_json()) for record in records])
        self.tell(ctx, metrics, examples=len(prompts), results=results)

    async def _distances(
        self, ctx: StageContext, groups: Sequence[TrajectoryGroup]
    ) -> tuple[TeacherKl, list[tuple[float, float]]]:
        """Sums over all prompts and sources, and sum of log-ratios with number of tokens of each prompt."""
        data, origins = assemble_training_data(groups, [np.zeros(1) for _ in groups])
        source_P = [source_of(group, ctx.get(SOURCES)) for group in groups]
        source_D = [source_P[origin.group] for origin in origins]
        ratios = log_ratios(data, await score_by_teacher(ctx.get(TEACHERS), data, source_D))
        total = TeacherKl(step=ctx.get(STEP), parts=taught_tokens(data, ratios, source_D))
        places = taught_tokens(data, ratios, [origin.group for origin in origins])
        return total, [places.get(number, (0.0, 0.0)) for number in range(len(groups))]
