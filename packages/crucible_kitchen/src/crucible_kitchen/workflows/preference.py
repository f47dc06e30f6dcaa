"""Preference optimisation: pairs in, the chosen completion becomes likelier than the rejected one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from crucible_ir import Contract, IfDef, LoopDef, PipelineNode, StageDef
from crucible_kitchen.workflows.supervised import opening

__all__ = ["PreferenceOptions", "preference"]


class PreferenceOptions(Contract):
    """What the workflow lets a recipe choose beyond the training settings."""

    renderer: str | None = None
    """Name of the renderer; None takes the one recommended for the model."""
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    on_error: str = "raise"
    evaluate: bool = True
    """Held-out preference accuracy at the cadence of ``training.eval_every`` and at the end."""
    eval_batch_size: int = Field(default=32, ge=1)
    registered: bool = True
    """Register the trained model at the end."""


def preference(options: PreferenceOptions) -> tuple[PipelineNode, ...]:
    """Preference optimisation on pairs of completions, with held-out accuracy."""
    loss: dict[str, Any] = {
        "beta": options.beta,
        "label_smoothing": options.label_smoothing,
        "loss": options.loss,
    }
    scoring = {"batch_size": options.eval_batch_size}
    evaluate = StageDef(name="evaluate_preference", options={**loss, **scoring})
    final = StageDef(
        name="evaluate_preference",
        label="final_evaluation",
        options={**loss, **scoring, "standalone": True},
    )
    step = (
        StageDef(name="begin_step"),
        *((IfDef(when="evaluation_due", body=(evaluate,)),) if options.evaluate else ()),
        StageDef(name="forward_backward_pairs", options=loss),
        StageDef(name="optim_step"),
        StageDef(name="log_metrics"),
        IfDef(when="checkpoint_due", body=(StageDef(name="save_checkpoint"),)),
    )
    return (
        *opening(options.renderer),
        StageDef(name="build_comparisons", options={"on_error": options.on_error}),
        StageDef(name="compute_reference_logprobs", options=scoring),
        StageDef(name="open_pair_metrics"),
        LoopDef(
            name="epochs",
            over="epochs",
            body=(StageDef(name="begin_epoch"), LoopDef(name="batches", over="batches", body=step)),
        ),
        StageDef(name="save_checkpoint", label="final_checkpoint"),
        *((final,) if options.evaluate else ()),
        StageDef(name="save_weights"),
        *((StageDef(name="register_model"),) if options.registered else ()),
        StageDef(name="write_report"),
    )
