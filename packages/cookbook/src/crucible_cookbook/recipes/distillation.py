"""Distillation: a student learns from teachers, on its own answers or on theirs."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pydantic import Field, model_validator

from crucible_cookbook.settings import model_ref, renderer_of, training_config
from crucible_cookbook.supervised import SupervisedConfig, workflow_options
from crucible_cookbook.teaching import Mode, SourceSettings, filled, source_name, teacher_of
from crucible_ir import ConfigError, Experiment, PipelineNode, Problem
from crucible_ir.problems import complaint
from crucible_kitchen.catalog import environment
from crucible_kitchen.recipes import Recipe
from crucible_kitchen.workflows.distillation import DistillationOptions, TaughtSource, distillation
from crucible_kitchen.workflows.on_policy_distillation import (
    FurtherPrompts,
    OnPolicyOptions,
    PromptSource,
    on_policy_distillation,
)
from crucible_train.renderers import TrainOnWhat

__all__ = ["Distillation", "DistillationConfig", "FurtherSource"]

_ON_POLICY = frozenset(
    {
        *("env", "env_options", "groups_per_batch", "group_size", "max_tokens", "temperature"),
        *("loss", "loss_config", "num_substeps", "stream_minibatches", "max_steps_off_policy"),
        *("kl_penalty_coef", "kl_discount_factor", "compute_post_kl", "eval_temperature", "log_groups"),
    }
)
_OFF_POLICY = frozenset(
    {
        *("answers", "n_teacher_targets", "teacher_renderer", "teacher_max_tokens", "teacher_temperature"),
        *(
            "weight",
            "batch_size",
            "drop_last",
            "max_length",
            "micro_batch_size",
            "train_on_what",
            "reduction",
        ),
        *("sample_prompts", "sample_max_tokens"),
    }
)
"""Settings that act in one mode alone."""

_ANSWERING = frozenset({"teacher_renderer", "teacher_max_tokens", "teacher_temperature"})
_USUAL: dict[str, dict[str, Any]] = {"off_policy": {"lora_rank": 32, "save_every": 10}, "on_policy": {}}
"""Where upstream's defaults differ between the modes."""


class FurtherSource(SourceSettings):
    """Another source with a teacher of its own."""

    dataset: str
    teacher: str
    groups_per_batch: int = Field(default=512, ge=1)
    """Prompts per iteration."""


class DistillationConfig(SourceSettings, SupervisedConfig):
    """Settings of ``distillation``; a setting that would do nothing in the chosen mode is refused."""

    mode: Mode = "off_policy"
    """``off_policy``: learn what the teacher answers, or would say of given answers; ``on_policy``: answer, and learn
    what the teacher thinks of every token."""
    more: tuple[FurtherSource, ...] = ()
    """Further sources, each with ``dataset`` and ``teacher``."""
    lr_schedule: Literal["linear", "cosine", "constant"] = "constant"
    lora_rank: int | None = Field(default=128, ge=1)
    """Rank of the LoRA adapter (32 off policy unless given); None trains all weights."""
    save_every: int = Field(default=20, ge=0)
    """Steps between checkpoints (10 off policy unless given); 0 saves at the end alone."""
    eval_every: int = Field(default=20, ge=0)

    answers: Literal["teacher", "given"] = "teacher"
    """Whose last turn is learned: the teacher writes it anew, or the given one stays."""
    n_teacher_targets: int = Field(default=20, ge=0)
    """Likeliest tokens of the teacher that are learned at each position; 0 learns the text alone."""
    teacher_max_tokens: int = Field(default=256, ge=1)
    """Longest answer of the teacher."""
    teacher_temperature: float = Field(default=1.0, ge=0)
    """Of the teacher's answers."""
    train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE
    batch_size: int = Field(default=64, ge=1)

    group_size: int = Field(default=4, ge=1)
    """Answers of the student to each prompt."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest answer of the student."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the student's answers."""
    loss: str = "importance_sampling"
    """``importance_sampling``, ``ppo``, ``cispo``, ``dro`` or ``gspo``."""
    loss_config: dict[str, float] = Field(default_factory=dict)
    """Settings of the loss, such as ``clip_low_threshold``; ``dro`` needs ``beta``."""
    num_substeps: int = Field(default=1, ge=1)
    """Optimiser steps per iteration."""
    stream_minibatches: int = Field(default=0, ge=0)
    """Parts of an optimiser step that are trained on while later groups are still sampled; 0 waits for all."""
    max_steps_off_policy: int = Field(default=0, ge=0)
    """Iterations that the sampling weights may lag behind those in training."""
    kl_penalty_coef: float = Field(default=1.0, gt=0)
    """How strongly the student is pulled towards the teacher."""
    kl_discount_factor: float = Field(default=0.0, ge=0, le=1)
    """Share of the next token's advantage that a token bears too."""
    compute_post_kl: bool = False
    """Measure how far each iteration moved the student."""
    eval_temperature: float = Field(default=1.0, ge=0)
    """Of held-out answers that can be judged; 0 takes the likeliest token each time."""
    log_groups: int = Field(default=4, ge=0)
    """Prompts of each iteration whose answers are kept in the run's folder."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_datasets(cls, given: Any) -> Any:
        """Fill in what ``data`` leaves open by what each dataset is known to need."""
        if not isinstance(given, dict):
            return given
        mode, more = given.get("mode", "off_policy"), given.get("more", ())
        usual = _USUAL.get(mode, {}) if isinstance(mode, str) else {}
        if isinstance(more, list | tuple):
            named = [isinstance(one, dict) and "dataset" in one for one in more]
            filled_in = [filled(one, mode) if has else one for one, has in zip(more, named, strict=True)]
            given = given | {"more": filled_in}
        return usual | filled(given, mode)

    @model_validator(mode="after")
    def _everything_given_is_acted_on(self) -> DistillationConfig:
        problems = [
            Problem(path=f"{path}{name}", message=f"does nothing {where}", remedy="leave it out")
            for path, source in (("", self), *((f"more[{n}].", one) for n, one in enumerate(self.more)))
            for name, where in self._idle().items()
            if name in type(source).model_fields
            and getattr(source, name)
            != type(source).model_fields[name].get_default(call_default_factory=True)
        ]
        if self.mode == "off_policy" and self.answers == "given" and not self.n_teacher_targets:
            problems.append(
                Problem(
                    path="n_teacher_targets",
                    message="0 with answers=given leaves nothing for a teacher to do",
                    remedy="let it answer (answers=teacher), give 1 or more targets, or use sl_basic",
                )
            )
        if problems:
            raise complaint(problems)
        return self

    def _idle(self) -> dict[str, str]:
        """Settings that nothing acts on, and why."""
        if self.mode == "on_policy":
            idle = dict.fromkeys(_OFF_POLICY, "with mode=on_policy")
            if all(one.env == "prompts" for one in (self, *self.more)):
                idle["eval_temperature"] = "with env=prompts, whose answers are not judged"
            return idle
        idle = dict.fromkeys(_ON_POLICY, f"with mode={self.mode}")
        if self.answers == "given":
            idle |= dict.fromkeys(_ANSWERING, "with answers=given")
        if not self.more:
            idle["weight"] = "without more sources"
        return idle


class Distillation(Recipe[DistillationConfig]):
    """Distillation: a student learns from teachers, on its own answers or on theirs."""

    name = "distillation"
    config_model = DistillationConfig

    def experiment(self, config: DistillationConfig) -> Experiment:
        """Learn from the teachers, watch the distance from them on held-out rows."""
        names = list[str]()
        for source in (config, *config.more):
            names.append(source_name(source, names))
        rows = config.rows()
        held_out = [source.rows().held_out() is not None for source in (config, *config.more)]
        if config.mode == "on_policy":
            evaluate = any(held_out)
            nodes = _on_policy(config, names, evaluate=evaluate)
            workflow = "on_policy_distillation"
            more: dict[str, Any] = {
                "batch_size": sum(source.groups_per_batch for source in (config, *config.more)),
                "drop_last": False,
                "loss": config.loss,
                "loss_config": config.loss_config,
            }
        else:
            if any(held_out) and not held_out[0]:
                raise ConfigError(
                    what="a further source has held-out rows, and the first has none",
                    where="data",
                    remedy="hold out rows of the first too (data.test_size), or put that source first",
                )
            evaluate = held_out[0]
            nodes, workflow = _off_policy(config, names), "distillation"
            more = {
                "batch_size": config.batch_size,
                "micro_batch_size": config.micro_batch_size,
                "max_length": config.max_length,
                "drop_last": config.drop_last,
            }
        return Experiment(
            id=config.name or self.name,
            recipe=self.name,
            workflow=workflow,
            pipeline=nodes,
            model=model_ref(config.model),
            dataset=rows.train(),
            eval_dataset=rows.held_out(),
            training=training_config(config, evaluate=evaluate, **more),
            settings=config.model_dump(mode="json"),
            seed=config.seed,
            tags=config.tags,
            baseline=config.baseline,
        )


def _off_policy(config: DistillationConfig, names: list[str]) -> tuple[PipelineNode, ...]:
    options = DistillationOptions(
        **workflow_options(config, config.rows()),
        name=names[0],
        **teacher_of(config),
        teacher_renderer=renderer_of(config.teacher, config.teacher_renderer),
        teacher_max_tokens=config.teacher_max_tokens,
        teacher_temperature=config.teacher_temperature,
        answers=config.answers == "teacher",
        n_teacher_targets=config.n_teacher_targets,
        weight=config.weight,
        more=tuple(
            TaughtSource(
                name=name,
                dataset=source.rows().train(),
                eval_dataset=source.rows().held_out(),
                **teacher_of(source),
                teacher_renderer=renderer_of(source.teacher, source.teacher_renderer),
                weight=source.weight,
            )
            for name, source in zip(names[1:], config.more, strict=True)
        ),
    )
    return distillation(options)


def _on_policy(config: DistillationConfig, names: list[str], *, evaluate: bool) -> tuple[PipelineNode, ...]:
    def asked(name: str, source: SourceSettings) -> dict[str, Any]:
        how = {**source.environment(), "groups_per_batch": source.groups_per_batch}
        return {"name": name, **how, **teacher_of(source)}

    sources = (config, *config.more)
    options = OnPolicyOptions(
        renderer=renderer_of(config.model, config.renderer),
        source=PromptSource(**asked(names[0], config)),
        more=tuple(
            FurtherPrompts(
                **asked(name, source),
                dataset=source.rows().train(),
                eval_dataset=source.rows().held_out(),
            )
            for name, source in zip(names[1:], config.more, strict=True)
        ),
        group_size=config.group_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        max_steps_off_policy=config.max_steps_off_policy,
        num_substeps=config.num_substeps,
        stream_minibatches=config.stream_minibatches,
        kl_penalty_coef=config.kl_penalty_coef,
        kl_discount_factor=config.kl_discount_factor,
        compute_post_kl=config.compute_post_kl,
        on_error=config.on_error,
        log_groups=config.log_groups,
        evaluate=evaluate,
        evaluate_answers=any(environment(source.env).graded for source in sources),
        eval_temperature=config.eval_temperature,
    )
    return on_policy_distillation(options)


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", Distillation.name, *sys.argv[1:]]))
