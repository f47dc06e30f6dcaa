"""Held-out problems, each of which is tried once."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_ir import EventType
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.environments.environment import HeldOutProblem

__all__ = ["once_each"]


def once_each(ctx: StageContext, problems: Sequence[HeldOutProblem]) -> list[HeldOutProblem]:
    """The first of each identity: records are paired by it, so two of one would hide each other."""
    first = {problem.example_id: problem for problem in reversed(problems)}
    kept = [problem for problem in problems if first[problem.example_id] is problem]
    again = len(problems) - len(kept)
    if again:
        message = f"{again} held-out problems stand there again and are tried once"
        ctx.emit(EventType.LOG, {"level": "warning", "message": message})
    return kept
