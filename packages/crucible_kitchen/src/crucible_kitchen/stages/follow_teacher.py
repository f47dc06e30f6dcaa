"""From samples of the student to data that pull it towards its teachers."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from crucible_ir import Contract
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.stages.keys import (
    GROUPS,
    PENDING_METRICS,
    ROLLOUT_DATA,
    SOURCES,
    STEP,
    TEACHER_KL,
    TEACHERS,
)
from crucible_kitchen.stages.rollouts import RolledGroup
from crucible_kitchen.stages.teacher_kl import TeacherKl, score_by_teacher, source_of, taught_tokens
from crucible_train.distillation import incorporate_teacher_kl
from crucible_train.rl import assemble_training_data, log_ratios

__all__ = ["FollowTeacher", "FollowTeacherOptions"]


class FollowTeacherOptions(Contract):
    """How strongly, and whether the future counts."""

    coef: float = Field(default=1.0, gt=0)
    discount: float = Field(default=0.0, ge=0, le=1)
    """Share of the next token's advantage that a token bears too."""


class FollowTeacher(Stage):
    """Advantages from what each group's teacher thinks of the sampled tokens; rewards have no part in them."""

    name = "follow_teacher"
    reads = (GROUPS, PENDING_METRICS, SOURCES, STEP, TEACHERS)
    optional_reads = (TEACHER_KL,)
    writes = (ROLLOUT_DATA, PENDING_METRICS, TEACHER_KL)
    options_model = FollowTeacherOptions

    async def run(self, ctx: StageContext) -> None:
        """Figures are means over the iteration, also where it is trained on in parts."""
        step, options = ctx.get(STEP), self.options
        groups = [found.group for found in ctx.get(GROUPS) if isinstance(found, RolledGroup)]
        none = [np.zeros(len(group.trajectories)) for group in groups]
        data, origins = assemble_training_data(groups, none)
        source_P = [source_of(group, ctx.get(SOURCES)) for group in groups]
        source_D = [source_P[origin.group] for origin in origins]
        teacher_D = await score_by_teacher(ctx.get(TEACHERS), data, source_D)
        data_with, _ = incorporate_teacher_kl(data, teacher_D, coef=options.coef, discount=options.discount)
        before = ctx.find(TEACHER_KL, TeacherKl(step=step, parts={}))
        if before.step != step:
            before = TeacherKl(step=step, parts={})
        so_far = before.plus(taught_tokens(data, log_ratios(data, teacher_D), source_D))
        ctx.set(ROLLOUT_DATA, data_with)
        ctx.set(TEACHER_KL, so_far)
        ctx.set(PENDING_METRICS, ctx.get(PENDING_METRICS) | so_far.metrics())
