"""Reinforcement learning: the policy tries each problem several times and learns which attempts were better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, model_validator

from crucible_ir import ConfigError, Contract, IfDef, LoopDef, PipelineNode, StageDef
from crucible_ir.json_values import JsonObject
from crucible_kitchen.workflows.supervised import opening

__all__ = [
    "ReinforcementOptions",
    "RolloutOptions",
    "closing",
    "held_out_attempts",
    "iteration",
    "opening_rollouts",
    "reinforcement",
]


class RolloutOptions(Contract):
    """What every workflow with rollouts lets a recipe choose."""

    renderer: str | None = None
    """Name of the renderer; None takes the one recommended for the model."""
    group_size: int = Field(default=4, ge=1)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    max_turns: int | None = Field(default=None, ge=1)
    max_steps_off_policy: int = Field(default=0, ge=0)
    """Iterations that the sampling weights may lag behind; 0 waits for each update before it samples again."""
    num_substeps: int = Field(default=1, ge=1)
    """Optimiser steps per iteration, each on its share of the data."""
    stream_minibatches: int = Field(default=0, ge=0)
    """Parts of each substep that are trained on as soon as their groups are finished; 0 waits for all groups."""
    compute_post_kl: bool = False
    on_error: str = "raise"
    log_groups: int = Field(default=4, ge=0)
    """Groups of each iteration whose texts are kept."""
    evaluate: bool = True
    eval_temperature: float = Field(default=1.0, ge=0)
    eval_max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer to a held-out problem; None takes ``max_tokens``."""
    registered: bool = True

    @model_validator(mode="after")
    def _one_mode(self) -> RolloutOptions:
        if self.stream_minibatches and self.max_steps_off_policy:
            raise ConfigError(  # not a ValueError, so that it is one sentence however the options are made
                what="stream_minibatches and max_steps_off_policy exclude each other",
                where="stream_minibatches",
                remedy="set one of them to 0",
            )
        return self


class ReinforcementOptions(RolloutOptions):
    """What the reinforcement workflow lets a recipe choose beyond the training settings."""

    data: bool = True
    """Load a dataset; environments that generate their problems need none."""
    env: str
    """Registered name of the environment."""
    env_options: JsonObject = Field(default_factory=dict)
    remove_constant_reward_groups: bool = False
    kl_penalty_coef: float = Field(default=0.0, ge=0)
    """How strongly the policy is held to the base model; 0 is not at all."""
    kl_discount_factor: float = Field(default=0.0, ge=0, le=1)


def reinforcement(options: ReinforcementOptions) -> tuple[PipelineNode, ...]:
    """Reinforcement learning on groups of attempts, with held-out reward and accuracy."""
    penalty: tuple[PipelineNode, ...] = ()
    reference: tuple[PipelineNode, ...] = ()
    if options.kl_penalty_coef:
        settings = {"coef": options.kl_penalty_coef, "discount": options.kl_discount_factor}
        penalty = (StageDef(name="penalize_kl", options=settings),)
        reference = (StageDef(name="load_reference"),)
    removing = {"remove_constant_reward_groups": options.remove_constant_reward_groups}
    shaping = (StageDef(name="compute_advantages", options=removing), *penalty)
    building = {"env": options.env, "env_options": options.env_options, "group_size": options.group_size}
    evaluation = held_out_attempts(options)
    before = (evaluation({}),) if options.evaluate else ()
    after = (evaluation({"standalone": True}, "final_evaluation"),) if options.evaluate else ()
    return (
        *opening(options.renderer, data=options.data),
        StageDef(name="build_env_group", options=building),
        *opening_rollouts(options),
        *reference,
        LoopDef(name="iterations", over="iterations", body=iteration(options, shaping, before)),
        *closing(options, after),
    )


def opening_rollouts(options: RolloutOptions) -> tuple[PipelineNode, ...]:
    """What acts in the environments, and what logs it."""
    sampling = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "max_turns": options.max_turns,
        "max_steps_off_policy": options.max_steps_off_policy,
        "on_error": options.on_error,
    }
    return (StageDef(name="open_rollouts", options=sampling), StageDef(name="open_rollout_metrics"))


def iteration(
    options: RolloutOptions, shaping: tuple[PipelineNode, ...], evaluate: tuple[PipelineNode, ...]
) -> tuple[PipelineNode, ...]:
    """One round of acting and learning; ``shaping`` turns finished groups into data with advantages."""
    parts = {"substeps": options.num_substeps, "minibatches": options.stream_minibatches}
    return (
        StageDef(name="begin_iteration", options=parts),
        *((IfDef(when="evaluation_due", body=evaluate),) if evaluate else ()),
        *(_streamed(options, shaping) if options.stream_minibatches else _whole(options, shaping)),
        *((StageDef(name="measure_post_kl"),) if options.compute_post_kl else ()),
        StageDef(name="log_rollouts", options={"groups": options.log_groups}),
        IfDef(when="checkpoint_due", body=(StageDef(name="save_checkpoint"),)),
    )


def closing(options: RolloutOptions, evaluate: tuple[PipelineNode, ...]) -> tuple[PipelineNode, ...]:
    """Everything after the last iteration."""
    return (
        StageDef(name="save_checkpoint", label="final_checkpoint"),
        *evaluate,
        StageDef(name="save_weights"),
        *((StageDef(name="register_model"),) if options.registered else ()),
        StageDef(name="write_report"),
    )


def _whole(options: RolloutOptions, shaping: tuple[PipelineNode, ...]) -> tuple[PipelineNode, ...]:
    """All groups first, then one optimiser step per share of their data."""
    return (
        StageDef(name="rollout"),
        *shaping,
        StageDef(name="split_updates", options={"num_substeps": options.num_substeps}),
        LoopDef(
            name="updates",
            over="updates",
            body=(
                StageDef(name="prepare_update"),
                StageDef(name="forward_backward"),
                StageDef(name="optim_step"),
            ),
        ),
    )


def _streamed(options: RolloutOptions, shaping: tuple[PipelineNode, ...]) -> tuple[PipelineNode, ...]:
    """Each part of the groups is trained on while later ones are still sampled."""
    parts = {"substeps": options.num_substeps, "minibatches": options.stream_minibatches}
    minibatch = (
        StageDef(name="rollout", options=parts),
        *shaping,
        StageDef(name="prepare_update", options={"whole": True}),
        StageDef(name="forward_backward"),
    )
    return (
        LoopDef(
            name="substeps",
            over="substeps",
            body=(
                LoopDef(name="minibatches", over="minibatches", body=minibatch),
                StageDef(name="optim_step"),
            ),
        ),
    )


def held_out_attempts(options: RolloutOptions) -> Callable[..., StageDef]:
    """Makes the stage that tries held-out problems, from further options and a label."""
    common = {
        "max_tokens": options.eval_max_tokens or options.max_tokens,
        "temperature": options.eval_temperature,
        "max_turns": options.max_turns,
        "on_error": options.on_error,
    }

    def stage(extra: dict[str, Any], label: str | None = None) -> StageDef:
        return StageDef(name="evaluate_rollouts", label=label, options={**common, **extra})

    return stage
