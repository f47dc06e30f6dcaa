"""Supervised fine-tuning: conversations in, cross-entropy down."""

from __future__ import annotations

from typing import Any

from crucible_ir import Contract, IfDef, LoopDef, PipelineNode, StageDef

__all__ = ["SupervisedOptions", "opening", "supervised", "training"]


class SupervisedOptions(Contract):
    """What the supervised workflow lets a recipe choose beyond the training settings."""

    renderer: str | None = None
    """Name of the renderer; None takes the one recommended for the model."""
    train_on_what: str = "all_assistant_messages"
    reduction: str = "mean"
    on_error: str = "raise"
    evaluate: bool = True
    """Held-out loss at the cadence of ``training.eval_every`` and at the end."""
    eval_batch_size: int = 64
    sample_prompts: int = 3
    """Held-out prompts answered before and after training; 0 is none."""
    sample_max_tokens: int = 64
    registered: bool = True
    """Register the trained model at the end."""


def supervised(options: SupervisedOptions) -> tuple[PipelineNode, ...]:
    """Supervised fine-tuning on conversations, with held-out loss."""
    return (*opening(options.renderer), *training(options))


def opening(renderer: str | None, *, data: bool = True) -> tuple[PipelineNode, ...]:
    """Load the data, if there are any, open the model and its tokenizer."""
    return (
        *((StageDef(name="load_dataset"),) if data else (StageDef(name="no_dataset"),)),
        StageDef(name="init_session"),
        StageDef(name="init_tokenizer", options={"renderer": renderer}),
        StageDef(name="capture_environment"),
    )


def training(options: SupervisedOptions) -> tuple[PipelineNode, ...]:
    """From conversations to a registered model: datums, steps, evaluation, checkpoints, report."""
    evaluation: dict[str, Any] = {"batch_size": options.eval_batch_size}
    sampling = {"prompts": options.sample_prompts, "max_tokens": options.sample_max_tokens}
    building = {
        "train_on_what": options.train_on_what,
        "reduction": options.reduction,
        "on_error": options.on_error,
    }
    before = (StageDef(name="sample_texts", label="sample_before", options=sampling),)
    final = StageDef(
        name="evaluate_nll", label="final_evaluation", options={**evaluation, "standalone": True}
    )
    after = (StageDef(name="sample_texts", label="sample_after", options=sampling),)
    return (
        StageDef(name="build_datums", options=building),
        StageDef(name="open_metrics"),
        *(before if options.sample_prompts else ()),
        LoopDef(
            name="epochs",
            over="epochs",
            body=(
                StageDef(name="begin_epoch"),
                LoopDef(name="batches", over="batches", body=_step(options, evaluation)),
            ),
        ),
        StageDef(name="save_checkpoint", label="final_checkpoint"),
        *((final,) if options.evaluate else ()),
        *(after if options.sample_prompts else ()),
        StageDef(name="save_weights"),
        *((StageDef(name="register_model"),) if options.registered else ()),
        StageDef(name="write_report"),
    )


def _step(options: SupervisedOptions, evaluation: dict[str, Any]) -> tuple[PipelineNode, ...]:
    evaluate = (IfDef(when="evaluation_due", body=(StageDef(name="evaluate_nll", options=evaluation),)),)
    return (
        StageDef(name="begin_step"),
        *(evaluate if options.evaluate else ()),
        StageDef(name="forward_backward"),
        StageDef(name="optim_step"),
        StageDef(name="log_metrics"),
        IfDef(when="checkpoint_due", body=(StageDef(name="save_checkpoint"),)),
    )
