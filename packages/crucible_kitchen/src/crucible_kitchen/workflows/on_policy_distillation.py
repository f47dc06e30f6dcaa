"""On-policy distillation: the student answers, and teachers say of every token how likely they would have said it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from crucible_ir import Contract, DatasetRef, LoopDef, PipelineNode, StageDef
from crucible_ir.json_values import JsonObject
from crucible_kitchen.workflows.distillation import taught_opening
from crucible_kitchen.workflows.reinforcement import (
    RolloutOptions,
    closing,
    held_out_attempts,
    iteration,
    opening_rollouts,
)

__all__ = ["FurtherPrompts", "OnPolicyOptions", "PromptSource", "on_policy_distillation"]


class PromptSource(Contract):
    """Prompts, how they are made of rows, and who teaches on them."""

    name: str
    """Under which its figures are reported."""
    env: str = "prompts"
    """Registered name of the environment that makes prompts of the rows."""
    env_options: JsonObject = Field(default_factory=dict)
    groups_per_batch: int = Field(ge=1)
    """Prompts of this source in each iteration."""
    teacher: str
    """Folder or hub id of the teacher's base model."""
    teacher_weights: str | None = None
    """Folder of weights that a run saved; None takes the base model as it is."""


class FurtherPrompts(PromptSource):
    """A source beyond the experiment's own, with the rows that it is made of."""

    dataset: DatasetRef
    eval_dataset: DatasetRef | None = None


class OnPolicyOptions(RolloutOptions):
    """What the workflow lets a recipe choose beyond the training settings."""

    source: PromptSource
    """The prompts of the experiment's own dataset."""
    more: tuple[FurtherPrompts, ...] = ()
    """Sources beyond it."""
    kl_penalty_coef: float = Field(default=1.0, gt=0)
    """How strongly the student is pulled towards its teachers."""
    kl_discount_factor: float = Field(default=0.0, ge=0, le=1)
    evaluate_answers: bool = False
    """Held-out prompts have answers that can be judged: try them too, for reward and accuracy."""

    @property
    def sources(self) -> tuple[PromptSource, ...]:
        """All of them, in order."""
        return (self.source, *self.more)


def on_policy_distillation(options: OnPolicyOptions) -> tuple[PipelineNode, ...]:
    """On-policy distillation: teachers score what the student samples, and its advantages are their opinion."""
    teachers = [{"model": one.teacher, "weights": one.teacher_weights} for one in options.sources]
    more = [one.model_dump(mode="json", include={"name", "dataset", "eval_dataset"}) for one in options.more]
    building = {
        "sources": [
            one.model_dump(mode="json", include={"env", "env_options", "groups_per_batch"})
            for one in options.sources
        ],
        "group_size": options.group_size,
    }
    following = {"coef": options.kl_penalty_coef, "discount": options.kl_discount_factor}
    shaping = (StageDef(name="follow_teacher", options=following),)
    before = _evaluations(options, final=False) if options.evaluate else ()
    after = _evaluations(options, final=True) if options.evaluate else ()
    return (
        *taught_opening(
            {"teachers": teachers, "answers": False, "scores": True},
            {"name": options.source.name, "more": more},
            options.renderer,
        ),
        StageDef(name="build_prompt_groups", options=building),
        *opening_rollouts(options),
        LoopDef(name="iterations", over="iterations", body=iteration(options, shaping, before)),
        *closing(options, after),
    )


def _evaluations(options: OnPolicyOptions, *, final: bool) -> tuple[PipelineNode, ...]:
    distance: dict[str, Any] = {
        "max_tokens": options.eval_max_tokens or options.max_tokens,
        "max_turns": options.max_turns,
        "on_error": options.on_error,
        "standalone": final,
    }
    label = "final_teacher_kl" if final else None
    attempts = held_out_attempts(options)({"standalone": final}, "final_evaluation" if final else None)
    return (
        StageDef(name="evaluate_teacher_kl", label=label, options=distance),
        *((attempts,) if options.evaluate_answers else ()),
    )
