"""Off-policy distillation: the student learns what teachers answer, or what they would say of given answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from crucible_ir import ConfigError, Contract, DatasetRef, IfDef, LoopDef, PipelineNode, StageDef
from crucible_kitchen.workflows.supervised import SupervisedOptions

__all__ = ["DistillationOptions", "TaughtSource", "distillation", "taught_opening"]


class TaughtSource(Contract):
    """Conversations beyond the experiment's own, with a teacher of their own."""

    name: str
    dataset: DatasetRef
    eval_dataset: DatasetRef | None = None
    teacher: str
    """Folder or hub id of the teacher's base model."""
    teacher_weights: str | None = None
    teacher_renderer: str | None = None
    weight: float = Field(default=1.0, gt=0)
    """Share of each batch, beside the weights of the other sources."""


class DistillationOptions(SupervisedOptions):
    """What the workflow lets a recipe choose beyond the training settings."""

    name: str = "dataset"
    """Name of the experiment's own source."""
    teacher: str
    """Folder or hub id of the teacher's base model."""
    teacher_weights: str | None = None
    """Folder of weights that a run saved; None takes the base model as it is."""
    teacher_renderer: str | None = None
    """The teacher's own chat format; None takes the one recommended for its model."""
    teacher_max_tokens: int = Field(default=256, ge=1)
    teacher_temperature: float = Field(default=1.0, ge=0)
    answers: bool = True
    """The teacher writes the last assistant turn anew; otherwise the given one is learned."""
    n_teacher_targets: int = Field(default=0, ge=0)
    """Likeliest tokens of the teacher that are learned at each position; 0 learns the text alone."""
    teacher_in_flight: int = Field(default=64, ge=1)
    weight: float = Field(default=1.0, gt=0)
    more: tuple[TaughtSource, ...] = ()
    """Sources beyond the experiment's own."""
    train_on_what: str = "last_assistant_message"
    """Only the turn that the teacher wrote."""

    @model_validator(mode="after")
    def _taught(self) -> DistillationOptions:
        if not self.answers and not self.n_teacher_targets:
            raise ConfigError(
                what="a teacher that neither answers nor gives targets teaches nothing",
                where="n_teacher_targets",
                remedy="set answers=true, or n_teacher_targets to 1 or more",
            )
        return self


def distillation(options: DistillationOptions) -> tuple[PipelineNode, ...]:
    """Off-policy distillation: teachers answer or score once, the student learns it by cross-entropy."""
    first = _teacher(options.teacher, options.teacher_weights, options.teacher_renderer)
    further = [_teacher(one.teacher, one.teacher_weights, one.teacher_renderer) for one in options.more]
    weights = [options.weight, *(source.weight for source in options.more)]
    soft, targets = options.n_teacher_targets > 0, _targets(options)
    building = {
        "train_on_what": options.train_on_what,
        "reduction": options.reduction,
        "on_error": options.on_error,
        "weights": weights,
    }
    sampling = {"max_tokens": options.teacher_max_tokens, "temperature": options.teacher_temperature}
    held_out = soft and options.evaluate
    opened = {
        "teachers": [first, *further],
        "answers": options.answers,
        "scores": soft,
        "likeliest": options.n_teacher_targets,
    }
    return (
        *taught_opening(
            opened,
            {"name": options.name, "more": [_rows(one) for one in options.more], "weights": weights},
            options.renderer,
        ),
        *((StageDef(name="sample_teacher", options=sampling),) if options.answers else ()),
        StageDef(name="build_source_datums", options=building),
        *((StageDef(name="build_held_out_targets", options=targets),) if held_out else ()),
        StageDef(name="open_soft_metrics" if soft else "open_metrics"),
        *_samples(options, "sample_before"),
        LoopDef(
            name="epochs",
            over="epochs",
            body=(
                StageDef(name="begin_mixed_epoch"),
                LoopDef(name="batches", over="batches", body=_step(options)),
            ),
        ),
        StageDef(name="save_checkpoint", label="final_checkpoint"),
        *(_evaluations(options, final=True) if options.evaluate else ()),
        *_samples(options, "sample_after"),
        StageDef(name="save_weights"),
        *((StageDef(name="register_model"),) if options.registered else ()),
        StageDef(name="write_report"),
    )


def taught_opening(
    teachers: dict[str, Any], sources: dict[str, Any], renderer: str | None
) -> tuple[PipelineNode, ...]:
    """Open teachers, rows, model and tokenizer; a teacher that does not fit is refused before the rest is loaded."""
    return (
        StageDef(name="load_teachers", options=teachers),
        StageDef(name="load_sources", options=sources),
        StageDef(name="init_session"),
        StageDef(name="init_tokenizer", options={"renderer": renderer}),
        StageDef(name="capture_environment"),
    )


def _teacher(model: str, weights: str | None, renderer: str | None) -> dict[str, Any]:
    return {"model": model, "weights": weights, "renderer": renderer}


def _rows(source: TaughtSource) -> dict[str, Any]:
    return source.model_dump(mode="json", include={"name", "dataset", "eval_dataset"})


def _targets(options: DistillationOptions) -> dict[str, Any]:
    return {"n_targets": options.n_teacher_targets, "in_flight": options.teacher_in_flight}


def _samples(options: DistillationOptions, label: str) -> tuple[PipelineNode, ...]:
    sampling = {"prompts": options.sample_prompts, "max_tokens": options.sample_max_tokens}
    return (StageDef(name="sample_texts", label=label, options=sampling),) if options.sample_prompts else ()


def _evaluations(options: DistillationOptions, *, final: bool) -> tuple[PipelineNode, ...]:
    common = {"batch_size": options.eval_batch_size, "standalone": final}
    names = ["evaluate_nll", *(["evaluate_soft_targets"] if options.n_teacher_targets else [])]
    return tuple(
        StageDef(name=name, label=f"final_{name}" if final else None, options=common) for name in names
    )


def _step(options: DistillationOptions) -> tuple[PipelineNode, ...]:
    evaluate = (IfDef(when="evaluation_due", body=_evaluations(options, final=False)),)
    targets = (StageDef(name="build_soft_targets", options=_targets(options)),)
    return (
        StageDef(name="begin_step"),
        *(evaluate if options.evaluate else ()),
        *(targets if options.n_teacher_targets else ()),
        StageDef(name="forward_backward"),
        StageDef(name="optim_step"),
        StageDef(name="log_metrics"),
        IfDef(when="checkpoint_due", body=(StageDef(name="save_checkpoint"),)),
    )
