"""Make the environments that a policy acts in."""

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
from crucible_kitchen.environments.environment import Environment, Material
from crucible_kitchen.stages.held_out import once_each
from crucible_kitchen.stages.keys import (
    CUMULATIVE,
    DATASET,
    ENVIRONMENTS,
    EVAL_DATASET,
    ITERATIONS,
    RENDERER,
    TOTAL_STEPS,
)
from crucible_kitchen.stages.step_plan import limited
from crucible_train.ports import PythonBridge

__all__ = ["BuildEnvGroup", "BuildEnvGroupOptions", "bridge_for"]


class BuildEnvGroupOptions(Contract):
    """Which problems, and how often each is tried."""

    env: str
    """Registered name of the environment."""
    env_options: JsonObject = Field(default_factory=dict)
    """Its own settings."""
    group_size: int = Field(default=4, ge=1)
    """Attempts at each problem of a batch; ``training.batch_size`` is the number of problems."""


class BuildEnvGroup(Stage):
    """Make the groups to train on and the problems to measure on; decide the number of iterations."""

    name = "build_env_group"
    reads = (RENDERER,)
    optional_reads = (DATASET, EVAL_DATASET, CUMULATIVE)
    writes = (ENVIRONMENTS, ITERATIONS, TOTAL_STEPS, CUMULATIVE)
    optional_ports = ("python_bridge",)
    options_model = BuildEnvGroupOptions
    setup = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The environment is registered, its settings fit, and the dataset that it needs is named."""
        made = self._environment(f"{plan.path}.options.env_options")
        problems = list(made.check(plan))
        if made.needs_rows and plan.experiment.dataset is None:
            problems.append(
                Problem(
                    path="dataset",
                    message=f"environment {self.options.env!r} takes its problems from a dataset, and none is named",
                    remedy="name a file, folder or hub id",
                )
            )
        return problems

    async def run(self, ctx: StageContext) -> None:
        """One iteration per batch and epoch, no more than ``training.max_steps``."""
        options, training = self.options, ctx.training
        experiment = ctx.experiment
        kind = self._environment("env_options")
        material = Material(
            renderer=ctx.get(RENDERER),
            groups_per_batch=training.batch_size,
            group_size=options.group_size,
            seed=experiment.seed,
            rows=ctx.get(DATASET) if experiment.dataset is not None else None,
            held_out=ctx.get(EVAL_DATASET) if experiment.eval_dataset is not None else None,
            bridge=bridge_for(ctx, kind),
        )
        made = kind.build(material)
        made = replace(made, held_out=once_each(ctx, made.held_out))
        if training.drop_last:
            made = replace(made, train=whole_batches(made.train, training.batch_size))
        if len(made.train) == 0:
            raise ConfigError(
                what=f"no batch of {training.batch_size} problems to train on",
                where="dataset",
                remedy="look at limit and mapping; with drop_last=false a smaller batch counts too",
            )
        total = limited(training, len(made.train))
        ctx.set(ENVIRONMENTS, made)
        ctx.set(ITERATIONS, total)
        ctx.set(TOTAL_STEPS, total)
        ctx.set(CUMULATIVE, ctx.find(CUMULATIVE, {}))
        ctx.emit(
            EventType.RUN_PROGRESS,
            {
                "total_steps": total,
                "epochs": training.epochs,
                "groups_per_batch": training.batch_size,
                "group_size": options.group_size,
                "held_out": len(made.held_out),
            },
        )

    def _environment(self, where: str) -> Environment:
        kind = environment(self.options.env)
        return kind(kind.options_model.parse(dict(self.options.env_options), where=where))


def bridge_for(ctx: StageContext, environment: Environment) -> PythonBridge | None:
    """The bridge for an environment that needs one; it is made only then, since its packages are an extra."""
    if not (environment.needs_bridge and ctx.has_port("python_bridge")):
        return None
    bridge: PythonBridge = ctx.port("python_bridge")
    return bridge
