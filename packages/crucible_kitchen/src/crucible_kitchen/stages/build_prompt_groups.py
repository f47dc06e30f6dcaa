"""Make the groups of prompts that a student answers, source by source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field

from crucible_ir import ConfigError, Contract, EventType, Problem
from crucible_ir.json_values import JsonObject
from crucible_kitchen.catalog import environment
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.environments.batched import whole_batches
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem, Material
from crucible_kitchen.environments.mixture import MixedGroups, NamedGroup
from crucible_kitchen.stages.build_env_group import bridge_for
from crucible_kitchen.stages.held_out import once_each
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    ENVIRONMENTS,
    HELD_OUT_PROMPTS,
    ITERATIONS,
    RENDERER,
    SOURCES,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.step_plan import limited
from crucible_train.rl import RLDataset

__all__ = ["BuildPromptGroups", "BuildPromptGroupsOptions", "PromptOptions"]


class PromptOptions(Contract):
    """How the rows of one source become prompts."""

    env: str = "prompts"
    """Registered name of the environment."""
    env_options: JsonObject = Field(default_factory=dict)
    """Its own settings."""
    groups_per_batch: int = Field(ge=1)
    """Prompts of the source in each iteration."""


class BuildPromptGroupsOptions(Contract):
    """How prompts are made, and how often each is answered."""

    sources: tuple[PromptOptions, ...] = Field(min_length=1)
    """In the order of the sources."""
    group_size: int = Field(default=4, ge=1)


class BuildPromptGroups(Stage):
    """Make the prompts of every source that a student answers, and those that it is measured on."""

    name = "build_prompt_groups"
    reads = (RENDERER, SOURCES)
    optional_reads = (CUMULATIVE,)
    writes = (ENVIRONMENTS, HELD_OUT_PROMPTS, ITERATIONS, TOTAL_STEPS, CUMULATIVE)
    optional_ports = ("python_bridge",)
    options_model = BuildPromptGroupsOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The environments are registered and their settings fit."""
        for number, source in enumerate(self.options.sources):
            where = f"{plan.path}.options.sources[{number}].env_options"
            yield from _environment(source, where).check(replace(plan, path=where))

    async def run(self, ctx: StageContext) -> None:
        """One iteration per batch and epoch, no more than ``training.max_steps``.

        Rewards of an environment are reported, and nothing learns from them.
        """
        options: BuildPromptGroupsOptions = self.options
        parts, held_out, graded = dict[str, RLDataset](), list[HeldOutProblem](), list[HeldOutProblem]()
        sources = ctx.get(SOURCES)
        for source, how in zip(sources, options.sources, strict=True):
            kind = _environment(how, "env_options")
            made = kind.build(
                Material(
                    renderer=ctx.get(RENDERER),
                    groups_per_batch=how.groups_per_batch,
                    group_size=options.group_size,
                    seed=ctx.experiment.seed,
                    rows=source.rows,
                    held_out=source.held_out,
                    bridge=bridge_for(ctx, kind),
                )
            )
            train = made.train
            if ctx.training.drop_last:
                train = whole_batches(train, how.groups_per_batch)
            if len(train) == 0:
                raise ConfigError(
                    what=f"source {source.name!r} has no prompt, or too few for a batch of {how.groups_per_batch}",
                    where="dataset",
                    remedy="look at limit and mapping; with drop_last=false a smaller batch counts too",
                )
            parts[source.name] = train
            named = [
                replace(problem, builder=NamedGroup(group=problem.builder, source=source.name))
                for problem in (made.held_out if source.held_out is not None else ())
            ]
            held_out += named
            graded += named if kind.graded else []
        held_out = once_each(ctx, held_out)
        tried = {id(problem) for problem in held_out}
        graded = [problem for problem in graded if id(problem) in tried]
        mixed = MixedGroups(parts=parts)
        total = limited(ctx.training, len(mixed))
        ctx.set(ENVIRONMENTS, Environments(train=mixed, held_out=graded))
        ctx.set(HELD_OUT_PROMPTS, held_out)
        ctx.set(ITERATIONS, total)
        ctx.set(TOTAL_STEPS, total)
        ctx.set(CUMULATIVE, ctx.find(CUMULATIVE, {}))
        ctx.emit(
            EventType.RUN_PROGRESS,
            {
                "total_steps": total,
                "epochs": ctx.training.epochs,
                "groups_per_batch": sum(how.groups_per_batch for how in options.sources),
                "group_size": options.group_size,
                "held_out": len(held_out),
            },
        )


def _environment(how: PromptOptions, where: str) -> Environment:
    kind = environment(how.env)
    return kind(kind.options_model.parse(dict(how.env_options), where=where))
