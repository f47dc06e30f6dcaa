"""Log one row of metrics per iteration, and keep some of its rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.atomic import write_lines
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.in_flight import SubmittedStep
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    FORWARD_BACKWARD,
    IN_FLIGHT,
    LEARNING_RATE,
    OPTIM_STEPS,
    PENDING_METRICS,
    ROLLED,
    ROLLOUTS,
    STEP,
    TOKENIZER,
    TOTAL_STEPS,
    TRAINED,
)
from crucible_kitchen.stages.rollouts import FailedGroup, RolledGroup
from crucible_train.ports import Tokenizer
from crucible_train.rl import TrajectoryGroup, trajectory_metrics
from crucible_train.types import ModelInput

__all__ = ["LogRollouts", "LogRolloutsOptions"]


class LogRolloutsOptions(Contract):
    """What is kept of the rollouts."""

    groups: int = Field(default=4, ge=0)
    """Groups of each iteration whose texts are kept in ``rollouts/``: the first ones, and as many of those after them
    that failed or hold an answer that could not be judged; 0 keeps none."""


class LogRollouts(Stage):
    """Hand this iteration to those in flight, log those that are done, keep some rollouts to look at."""

    name = "log_rollouts"
    reads = (
        CUMULATIVE,
        FORWARD_BACKWARD,
        IN_FLIGHT,
        LEARNING_RATE,
        OPTIM_STEPS,
        PENDING_METRICS,
        ROLLED,
        ROLLOUTS,
        STEP,
        TOKENIZER,
        TOTAL_STEPS,
        TRAINED,
    )
    writes = (CUMULATIVE, STEP)
    options_model = LogRolloutsOptions

    async def run(self, ctx: StageContext) -> None:
        """The only place where the step counter of reinforcement learning moves.

        Rate and progress stand under the names of every workflow, and under those that upstream has here alone.
        """
        step, total, pending = ctx.get(STEP), ctx.get(TOTAL_STEPS), ctx.get(PENDING_METRICS)
        rolled = [found for found in ctx.get(ROLLED) if isinstance(found, RolledGroup)]
        failed = len(ctx.get(ROLLED)) - len(rolled)
        groups = [found.group for found in rolled]
        self._keep(ctx, ctx.get(ROLLED))
        tokens = self._tokens(ctx, groups)
        in_flight = ctx.get(IN_FLIGHT)
        in_flight.submit(
            SubmittedStep(
                step=step,
                batch=ctx.get(TRAINED),
                passes=ctx.get(FORWARD_BACKWARD),
                optims=ctx.get(OPTIM_STEPS),
                metrics={
                    "progress": (step + 1) / total,
                    "progress/batch": float(step),
                    "progress/done_frac": (step + 1) / total,
                    "learning_rate": ctx.get(LEARNING_RATE),
                    "optim/lr": ctx.get(LEARNING_RATE),
                    **trajectory_metrics(groups),
                    **(_staleness(step, rolled) if ctx.get(ROLLOUTS).ahead else {}),
                    **({"rollout_errors/groups": float(failed)} if failed else {}),
                    **tokens,
                    **pending,
                },
            )
        )
        ctx.set(STEP, step + 1)
        await in_flight.settle(ctx.training.submit_ahead if step + 1 < total else 0)

    def _tokens(self, ctx: StageContext, groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
        turns = [turn for group in groups for one in group.trajectories for turn in one.transitions]
        found = {
            "sampled": float(sum(len(turn.action.tokens) for turn in turns)),
            "prefill_cached": float(sum(turn.cached_tokens for turn in turns)),
            "prefill_uncached": float(sum(turn.observation.length - turn.cached_tokens for turn in turns)),
            "trained": float(sum(datum.model_input.length for datum in ctx.get(TRAINED))),
        }
        so_far = ctx.get(CUMULATIVE)
        totals = {name: so_far.get(name, 0.0) + value for name, value in found.items()}
        ctx.set(CUMULATIVE, totals)
        named = {f"tokens/{name}": value for name, value in found.items()}
        return {**named, **{f"tokens/cumulative/{name}": value for name, value in totals.items()}}

    def _keep(self, ctx: StageContext, rolled: Sequence[RolledGroup | FailedGroup]) -> None:
        first = self.options.groups
        noted = [g for g, found in enumerate(rolled) if g >= first and _went_wrong(found)]
        kept = [*range(min(first, len(rolled))), *noted[:first]]
        if not kept:
            return
        tokenizer = ctx.get(TOKENIZER)
        lines = [
            ctx.redact(json.dumps({"group": g, **line}, ensure_ascii=False))
            for g in kept
            for line in _lines(tokenizer, rolled[g])
        ]
        write_lines(ctx.run_dir / "rollouts" / f"step_{ctx.get(STEP):06d}.jsonl", lines)


def _went_wrong(found: RolledGroup | FailedGroup) -> bool:
    return isinstance(found, FailedGroup) or any(one.reward is None for one in found.group.trajectories)


def _lines(tokenizer: Tokenizer, found: RolledGroup | FailedGroup) -> list[dict[str, Any]]:
    """One per member; of a group that failed, one with the error."""
    if isinstance(found, FailedGroup):
        return [{"failed": str(found.error)}]
    members = range(len(found.group.trajectories))
    return [{"member": m, "version": found.version, **_told(tokenizer, found.group, m)} for m in members]


def _told(tokenizer: Tokenizer, group: TrajectoryGroup, member: int) -> dict[str, Any]:
    trajectory = group.trajectories[member]
    return {
        "reward": None if trajectory.reward is None else trajectory.reward + group.final_rewards[member],
        "turns": [
            {
                "observation": _text(tokenizer, turn.observation),
                "action": tokenizer.decode(turn.action.tokens),
                "stop_reason": turn.action.stop_reason,
                "reward": turn.reward,
                "metrics": dict(turn.metrics),
                "logs": dict(turn.logs),
            }
            for turn in trajectory.transitions
        ],
    }


def _text(tokenizer: Tokenizer, observation: ModelInput) -> str:
    return "".join(
        tokenizer.decode(chunk.tokens) if hasattr(chunk, "tokens") else "[image]"
        for chunk in observation.chunks
    )


def _staleness(step: int, rolled: Sequence[RolledGroup]) -> dict[str, float]:
    """The iterations that the sampling weights come from, and how many before this one they lie."""
    versions = [found.version for found in rolled]
    if not versions:
        return {}
    lowest, mean, highest = min(versions), sum(versions) / len(versions), max(versions)
    return {
        "training_client/step": float(step),
        "sampling_client/step_min": float(lowest),
        "sampling_client/step_mean": mean,
        "sampling_client/step_max": float(highest),
        "async/staleness_min": float(step - highest),
        "async/staleness_mean": step - mean,
        "async/staleness_max": float(step - lowest),
    }
