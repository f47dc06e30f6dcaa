"""Mathematical problems of a dataset, judged by a grader of three values."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import AdapterError, Contract, DatasetSnapshot, Problem
from crucible_kitchen.engine.context import PlanContext
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem, Material
from crucible_train.grading import GradingRules, MathGrader
from crucible_train.rl import ProblemDataset, ProblemGroup, ProblemRows, strawberry_prefix

__all__ = ["MathProblems", "MathProblemsOptions"]


class MathProblemsOptions(Contract):
    """How problems are asked and judged."""

    dataset_name: str = "problems"
    """Name under which the problems' metrics are reported."""
    fewshot: bool = True
    """Put a worked example of the format before each problem."""
    rules: GradingRules = "careful"
    """``careful``: what is mathematically right; ``cookbook_exact``: what tinker-cookbook says."""
    grading_timeout_s: float = Field(default=2.0, gt=0)
    """What takes longer cannot be judged."""
    format_coef: float = Field(default=0.1, ge=0)
    require_stop_sequence: bool = True


class MathProblems(Environment):
    """Problems with gold answers, rewarded for a right answer in a box."""

    options_model = MathProblemsOptions
    needs_rows = True
    needs_bridge = True

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        """The judges are installed; looked for before anything is loaded."""
        if "python_bridge" not in plan.ports.names():
            return [
                Problem(
                    path=plan.path,
                    message="grading needs the port 'python_bridge', which the manifest does not name",
                    remedy='add [ports.python_bridge] with adapter = "math" to the manifest',
                )
            ]
        plan.ports.get("python_bridge")
        return []

    def build(self, material: Material) -> Environments:
        """Problems in the order of the rows; held-out ones if a dataset of them is named.

        Raises:
            DataError: a row is no problem; found here, not in the middle of the run.
        """
        if material.rows is None or material.bridge is None:
            raise AdapterError(
                what="problems need rows and a bridge to their judges",
                where="environments.math",
                remedy="name a dataset, and python_bridge in the manifest",
            )
        options: MathProblemsOptions = self.options
        grader = MathGrader(material.bridge, rules=options.rules, timeout_s=options.grading_timeout_s)
        train = self._dataset(material, material.rows, grader)
        for _ in train.problems:
            pass  # reading a row is what finds it wrong
        held_out: list[HeldOutProblem] = []
        if material.held_out is not None:
            measured = self._dataset(material, material.held_out, grader)
            held_out = [
                HeldOutProblem(
                    example_id=example_id({"problem": problem.question, "answer": problem.answer}),
                    builder=ProblemGroup(
                        env=measured.env(problem), num_envs=1, dataset_name=options.dataset_name
                    ),
                )
                for problem in measured.problems
            ]
        return Environments(train=train, held_out=held_out)

    def _dataset(self, material: Material, snapshot: DatasetSnapshot, grader: MathGrader) -> ProblemDataset:
        options: MathProblemsOptions = self.options
        return ProblemDataset(
            problems=ProblemRows(snapshot.rows, label=f"{snapshot.ref.id}, row"),
            renderer=material.renderer,
            grader_for=grader.for_gold,
            batch_size=material.groups_per_batch,
            group_size=material.group_size,
            prefix=strawberry_prefix() if options.fewshot else (),
            rules=options.rules,
            format_coef=options.format_coef,
            require_stop_sequence=options.require_stop_sequence,
            dataset_name=options.dataset_name,
        )
