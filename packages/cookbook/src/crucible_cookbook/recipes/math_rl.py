"""Reinforcement learning on problems whose answers can be checked."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from crucible_cookbook.data import BUNDLED, PROBLEMS, existing, problem_data
from crucible_cookbook.settings import TrainingSettings, model_ref, renderer_of, training_config
from crucible_ir import DatasetRef, Experiment, nearest
from crucible_kitchen.recipes import Recipe
from crucible_kitchen.workflows.reinforcement import ReinforcementOptions, reinforcement
from crucible_train.grading import GradingRules

__all__ = ["MathRl", "MathRlConfig"]

_GENERATED = "arithmetic"
"""The environment whose problems come from no dataset."""


class MathRlConfig(TrainingSettings):
    """Settings of ``math_rl``; the defaults are upstream's, but for the loss, whose formula is not public there."""

    model: str = "Qwen/Qwen3.5-9B"
    """Folder or hub id of the base model; ``tiny`` is the bundled one."""
    env: str = "arithmetic"
    """``arithmetic`` (generated sums), ``gsm8k``, ``math``, ``deepmath``, ``polaris``, ``tiny`` (bundled sums), or a
    file of rows with problem and answer."""
    group_size: int = Field(default=4, ge=1)
    """Attempts at each problem."""
    groups_per_batch: int = Field(default=100, ge=1)
    """Problems per iteration."""
    max_tokens: int = Field(default=5, ge=1)
    """Longest answer."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the attempts."""
    loss: str = "importance_sampling"
    """``importance_sampling``, ``ppo``, ``cispo``, ``dro`` or ``gspo``."""
    loss_config: dict[str, float] = Field(default_factory=dict)
    """Settings of the loss, such as ``clip_low_threshold``; ``dro`` needs ``beta``."""
    learning_rate: float = Field(default=1e-5, ge=0)
    """Peak learning rate of Adam."""
    lr_schedule: Literal["linear", "cosine", "constant"] = "constant"
    """How the learning rate falls from its peak to the last step."""
    num_substeps: int = Field(default=1, ge=1)
    """Optimiser steps per iteration."""
    stream_minibatches: int = Field(default=0, ge=0)
    """Parts of an optimiser step that are trained on while later groups are still sampled; 0 waits for all."""
    max_steps_off_policy: int = Field(default=0, ge=0)
    """Iterations that the sampling weights may lag behind those in training."""
    kl_penalty_coef: float = Field(default=0.0, ge=0)
    """How strongly the policy is held to the base model."""
    kl_discount_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the next token's penalty that a token bears too."""
    remove_constant_reward_groups: bool = False
    """Leave out problems whose attempts all have one reward."""
    compute_post_kl: bool = False
    """Measure how far each iteration moved the policy."""
    fewshot: bool | None = None
    """Put a worked example before each problem; None does what upstream does for the environment."""
    n_batches: int = Field(default=100, ge=1)
    """Batches of generated sums."""
    held_out: int = Field(default=256, ge=0)
    """Held-out generated sums."""
    path: str | None = None
    """A copy of the named problems to read instead of the hub's: a folder with the same splits, or a file."""
    eval_path: str | None = None
    """Where the held-out problems are; None looks where the others are."""
    limit: int | None = Field(default=None, ge=1)
    """Problems of a dataset at most."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Held-out problems of a dataset at most."""
    shuffle_seed: int = Field(default=0, ge=0)
    """Seed of the order of a dataset."""
    rules: GradingRules = "careful"
    """``careful`` grades what is mathematically right; ``cookbook_exact`` as tinker-cookbook does."""
    eval_temperature: float = Field(default=1.0, ge=0)
    """Of held-out attempts; 0 takes the likeliest token each time."""
    eval_every: int = Field(default=20, ge=0)
    """Iterations between evaluations of held-out reward and accuracy."""
    on_error: Literal["raise", "drop"] = "raise"
    """A group whose environment fails stops the run, or is left out and counted."""
    log_groups: int = Field(default=4, ge=0)
    """Problems of each iteration whose attempts are kept in the run's folder."""

    @field_validator("env")
    @classmethod
    def _problems_of_that_name(cls, env: str) -> str:
        """A name that is known, a path, or a hub id with its owner."""
        names = (_GENERATED, BUNDLED, *PROBLEMS)
        if env in names or "/" in env or "." in env or existing(env, where="env") is not None:
            return env
        near = nearest(env, names)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"no problems are called {env!r} and no file is; {hint}names: {', '.join(names)}")

    @model_validator(mode="after")
    def _everything_given_is_acted_on(self) -> MathRlConfig:
        """A setting that would do nothing with this environment, or without a penalty, is refused."""
        idle = {"n_batches", "held_out"}
        if self.generated():
            idle = {"limit", "eval_limit", "shuffle_seed"}
        if self.generated() or self.env == BUNDLED:
            idle |= {"rules", "eval_path"}
        if self.env not in PROBLEMS:
            idle |= {"path"}
        fields = type(self).model_fields
        given = sorted(name for name in idle if getattr(self, name) != fields[name].default)
        if given:
            raise ValueError(f"nothing acts on {', '.join(given)} with env={self.env!r}; leave it out")
        if self.kl_discount_factor and not self.kl_penalty_coef:
            raise ValueError("nothing acts on kl_discount_factor without kl_penalty_coef; leave it out")
        return self

    def generated(self) -> bool:
        """Whether problems come from no dataset."""
        return self.env == _GENERATED

    def problems(self) -> tuple[DatasetRef | None, DatasetRef | None]:
        """The training and the held-out problems, where they come from a dataset."""
        if self.generated():
            return None, None
        changes = {"shuffle_seed": self.shuffle_seed, "limit": self.limit, "eval_limit": self.eval_limit}
        data = problem_data(self.env).model_copy(update=changes | self._copies())
        return data.train(), data.held_out()

    def _copies(self) -> dict[str, Any]:
        """Where to read instead; a copy has no configurations, and a file no splits but the one."""
        named = problem_data(self.env)
        changes: dict[str, Any] = {}
        if self.path is not None:
            here = existing(self.path, where="path")
            alone = here is not None and here.is_file()
            changes = {"path": self.path, "config": None, "split": "train" if alone else named.split}
            if alone and self.eval_path is None:
                changes |= {"eval_split": None, "eval_path": None}
        if self.eval_path is not None:
            changes |= {"eval_path": self.eval_path, "eval_split": named.eval_split or "test"}
            if "exclude" in named.mapping:
                exclude = named.mapping["exclude"]
                changed = {**exclude, "dataset": {**exclude["dataset"], "id": self.eval_path}}
                changes["mapping"] = {**named.mapping, "exclude": changed}
        return changes

    def environment(self) -> dict[str, Any]:
        """The environment and its settings."""
        if self.generated() or self.env == BUNDLED:
            fewshot = self.generated() if self.fewshot is None else self.fewshot
            sizes = {"n_batches": self.n_batches, "held_out": self.held_out} if self.generated() else {}
            return {"env": "arithmetic", "env_options": {"fewshot": fewshot, **sizes}}
        fewshot = problem_data(self.env).few_shot if self.fewshot is None else self.fewshot
        name = self.env if self.env in PROBLEMS else "problems"
        return {
            "env": "math",
            "env_options": {"dataset_name": name, "fewshot": fewshot, "rules": self.rules},
        }


class MathRl(Recipe[MathRlConfig]):
    """Reinforcement learning on sums or mathematical problems, rewarded for right answers."""

    name = "math_rl"
    config_model = MathRlConfig

    def experiment(self, config: MathRlConfig) -> Experiment:
        """Try each problem several times, learn from the better attempts, watch held-out reward and accuracy."""
        train, held_out = config.problems()
        evaluate = held_out is not None or (config.generated() and config.held_out > 0)
        options = ReinforcementOptions.parse(
            {
                "renderer": renderer_of(config.model, config.renderer),
                "data": train is not None,
                **config.environment(),
                "group_size": config.group_size,
                "max_tokens": config.max_tokens,
                "temperature": config.temperature,
                "max_steps_off_policy": config.max_steps_off_policy,
                "num_substeps": config.num_substeps,
                "stream_minibatches": config.stream_minibatches,
                "kl_penalty_coef": config.kl_penalty_coef,
                "kl_discount_factor": config.kl_discount_factor,
                "remove_constant_reward_groups": config.remove_constant_reward_groups,
                "compute_post_kl": config.compute_post_kl,
                "on_error": config.on_error,
                "log_groups": config.log_groups,
                "evaluate": evaluate,
                "eval_temperature": config.eval_temperature,
            }
        )
        return Experiment(
            id=config.name or self.name,
            recipe=self.name,
            workflow="reinforcement",
            pipeline=reinforcement(options),
            model=model_ref(config.model),
            dataset=train,
            eval_dataset=held_out,
            training=training_config(
                config,
                evaluate=evaluate,
                batch_size=config.groups_per_batch,
                drop_last=False,
                loss=config.loss,
                loss_config=config.loss_config,
            ),
            settings=config.model_dump(mode="json"),
            seed=config.seed,
            tags=config.tags,
            baseline=config.baseline,
        )


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", MathRl.name, *sys.argv[1:]]))
