"""Upstream's recipes and ours with one configuration: what a user would type on either side.

Settings that are not named keep each side's own default, so that defaults are compared too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stand_ins import STUDENT, TEACHER

__all__ = ["FLOWS", "Flow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One recipe: upstream's module with its words, our recipe with its settings; ``steps`` stands for a number."""

    module: str
    theirs: tuple[str, ...]
    recipe: str
    ours: tuple[str, ...]
    alike: str = ""
    """What had to be set because the defaults differ."""
    per_iteration: int = 1
    """Optimiser steps of one row of metrics."""
    leave: Mapping[str, str] = field(default_factory=dict)
    """Metrics (or ``metric@step``) that are not compared, and why."""

    def commands(self, steps: int) -> tuple[list[str], list[str]]:
        """Both sides' words for ``steps`` iterations."""
        iterations = -(-steps // self.per_iteration)
        theirs = [word.format(steps=iterations) for word in self.theirs]
        ours = [word.format(steps=iterations) for word in self.ours]
        return theirs, ours


_RATE = "learning_rate=1e-3"
_ORDER = "`data.shuffle_seed=null` (this loop of upstream's orders the rows once, ours anew in every epoch)"


def _math_rl(loss: str, *, theirs: tuple[str, ...] = (), ours: tuple[str, ...] = ()) -> Flow:
    # Answers arrive in any order, so sums round differently; Adam makes steps of what rounding leaves, all the greater
    # the rate is, until one answer is drawn otherwise and the runs part.
    sizes = (
        *("env=gsm8k", "group_size=4", "groups_per_batch=4", "max_tokens=12"),
        *("learning_rate=1e-4", "max_steps={steps}"),
    )
    return Flow(
        module="tinker_cookbook.recipes.math_rl.train",
        theirs=(f"model_name={STUDENT}", *sizes, f"loss_fn={loss}", *theirs),
        recipe="math_rl",
        ours=(f"model={STUDENT}", *sizes, f"loss={loss}", "rules=cookbook_exact", *ours),
        alike="`loss` (upstream's default has no public formula), `rules=cookbook_exact`",
        per_iteration=2 if loss != "importance_sampling" else 1,
    )


FLOWS: dict[str, Flow] = {
    "sl_basic": Flow(
        module="tinker_cookbook.recipes.sl_basic",
        theirs=(f"model_name={STUDENT}", "max_steps={steps}"),
        recipe="sl_basic",
        ours=(f"model={STUDENT}", "max_steps={steps}", "sample_prompts=0"),
    ),
    "chat_sl": Flow(
        module="tinker_cookbook.recipes.chat_sl.train",
        theirs=(f"model_name={STUDENT}", "dataset=tulu3", "batch_size=32", _RATE, "max_steps={steps}"),
        recipe="chat_sl",
        ours=(
            *(f"model={STUDENT}", "dataset=tulu3", "batch_size=32", _RATE, "max_steps={steps}"),
            "sample_prompts=0",
        ),
    ),
    "dpo": Flow(
        module="tinker_cookbook.recipes.preference.dpo.train",
        theirs=(f"model_name={STUDENT}", "dataset=hhh", "batch_size=16", _RATE, "max_steps={steps}"),
        recipe="preference",
        ours=(f"model={STUDENT}", "dataset=hhh", "batch_size=16", _RATE, "max_steps={steps}"),
        leave={
            "progress": "ours counts the step that was taken, as every other recipe of both sides does",
            "accuracy@0": "policy and reference are the same model then, and rounding decides which is greater",
        },
    ),
    "math_rl, importance_sampling": _math_rl("importance_sampling"),
    "math_rl, ppo": _math_rl("ppo", theirs=("num_substeps=2",), ours=("num_substeps=2",)),
    "math_rl, cispo": _math_rl("cispo", theirs=("num_substeps=2",), ours=("num_substeps=2",)),
    "distillation on policy": Flow(
        module="tinker_cookbook.recipes.distillation.on_policy_distillation",
        theirs=(
            *(f"model_name={STUDENT}", f"teacher_model={TEACHER}", "group_size=2", "groups_per_batch=8"),
            *("max_tokens=12", "lora_rank=16", _RATE, "max_steps={steps}"),
        ),
        recipe="distillation",
        ours=(
            *("mode=on_policy", f"model={STUDENT}", f"teacher={TEACHER}", "group_size=2"),
            *("groups_per_batch=8", "max_tokens=12", "lora_rank=16", _RATE, "max_steps={steps}"),
        ),
    ),
    "distillation off policy, reasoning": Flow(
        module="tinker_cookbook.recipes.distillation.off_policy_reasoning",
        theirs=(
            *(f"model_name={STUDENT}", "renderer_name=qwen3_instruct", "batch_size=16", _RATE),
            *("max_steps={steps}", "lora_rank=16"),
        ),
        recipe="sl_basic",
        ours=(
            *(f"model={STUDENT}", "data.path=open-thoughts/OpenThoughts3-1.2M", "batch_size=16"),
            *("data.shuffle_seed=null", "max_length=16384"),
            *(_RATE, "max_steps={steps}", "lora_rank=16", "sample_prompts=0"),
        ),
        alike=_ORDER,
    ),
    "distillation off policy, soft targets": Flow(
        module="upstream_soft_targets",
        theirs=(f"model_name={STUDENT}", f"teacher={TEACHER}", "batch_size=16", _RATE, "max_steps={steps}"),
        recipe="distillation",
        ours=(
            *(f"model={STUDENT}", f"teacher={TEACHER}", "answers=given", "batch_size=16", _RATE),
            *("max_steps={steps}", "reduction=sum", "adam_eps=1e-12", "sample_prompts=0", "eval_every=0"),
            *("train_on_what=all_assistant_messages", "data.shuffle_seed=null"),
        ),
        alike="`reduction=sum` (upstream gives every position weight 1), `adam_eps=1e-12` (the SDK's default), "
        + _ORDER,
    ),
}
