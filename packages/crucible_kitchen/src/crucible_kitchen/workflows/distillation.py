"""Off-policy distillation: a teacher answers the prompts, and the student is trained on its answers."""

from __future__ import annotations

from pydantic import Field

from crucible_ir import PipelineNode, StageDef
from crucible_kitchen.workflows.supervised import SupervisedOptions, opening, training

__all__ = ["DistillationOptions", "distillation"]


class DistillationOptions(SupervisedOptions):
    """What the workflow lets a recipe choose beyond the training settings."""

    teacher: str
    """Folder or hub id of the teacher's base model."""
    teacher_weights: str | None = None
    """Folder of weights that a run saved; None takes the base model as it is."""
    teacher_renderer: str | None = None
    """The teacher's own chat format; None takes the one recommended for its model."""
    teacher_max_tokens: int = Field(default=256, ge=1)
    teacher_temperature: float = Field(default=1.0, ge=0)
    train_on_what: str = "last_assistant_message"
    """Only the turn that the teacher wrote."""


def distillation(options: DistillationOptions) -> tuple[PipelineNode, ...]:
    """Off-policy distillation: a teacher answers once, the student learns its answers."""
    teacher = {
        "model": options.teacher,
        "weights": options.teacher_weights,
        "renderer": options.teacher_renderer,
    }
    sampling = {"max_tokens": options.teacher_max_tokens, "temperature": options.teacher_temperature}
    return (
        *opening(options.renderer),
        StageDef(name="load_teacher", options=teacher),
        StageDef(name="sample_teacher", options=sampling),
        *training(options),
    )
