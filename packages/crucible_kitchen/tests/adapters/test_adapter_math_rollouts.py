"""Rollouts whose grader hangs, crashes or runs out of memory: not judged, counted, and worth no reward at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from crucible_ir import DataError
from crucible_kitchen.adapters.math_bridge import MathBridge
from crucible_testing.bridge_functions import PROBES
from crucible_testing.byte_tokenizer import ByteTokenizer
from crucible_train.grading import MathGrader, Verdict, boxed_answer
from crucible_train.renderers import get_renderer
from crucible_train.rl import (
    ProblemEnv,
    ProblemGroup,
    TrajectoryGroup,
    compute_advantages,
    judged_only,
    rollout_group,
    trajectory_metrics,
)
from crucible_train.types import ModelInput, SampledSequence, StopCondition

HANGS = "10^{10^{10}}"
EXHAUSTS = "(x+y+1)^{2000}"


@pytest.fixture
def bridge() -> Iterator[MathBridge]:
    made = MathBridge(workers=1, memory_mb=512)
    yield made
    asyncio.run(made.close())


def rolled_out(grader: MathGrader, answers: list[str], gold: str) -> TrajectoryGroup:
    """A group of attempts at one problem that give ``answers``."""
    tokenizer = ByteTokenizer()
    renderer = get_renderer("role_colon", tokenizer)
    env = ProblemEnv(
        question="How much is it?",
        renderer=renderer,
        grader=grader.for_gold(gold),
        check_format=lambda text: boxed_answer(text) is not None,
    )
    remaining = iter(answers)

    async def complete(observation: ModelInput, stop: StopCondition) -> SampledSequence:
        tokens = tokenizer.encode(f" It is \\boxed{{{next(remaining)}}}.\n\nUser:")
        return SampledSequence(tokens=tokens, logprobs=[-1.0] * len(tokens), stop_reason="stop")

    return asyncio.run(rollout_group(ProblemGroup(env=env, num_envs=len(answers)), lambda _: complete))


def rewards_of(group: TrajectoryGroup) -> list[float | None]:
    return [trajectory.reward for trajectory in group.trajectories]


def test_a_group_with_attempts_that_cannot_be_judged_keeps_the_others(bridge: MathBridge) -> None:
    grader = MathGrader(bridge, timeout_s=0.5)
    patient = MathGrader(bridge, timeout_s=60)
    assert asyncio.run(patient.grade("y+1", "1+y")).verdict is Verdict.CORRECT  # the worker is warm
    group = rolled_out(grader, ["5", HANGS, "4"], "5")
    assert rewards_of(group) == [1.0, None, 0.0]
    with pytest.raises(DataError, match="could not be judged"):
        compute_advantages([group])
    kept, left_out = judged_only([group])
    assert left_out == 1
    assert [advantages.tolist() for advantages in compute_advantages(kept)] == [[0.5, -0.5]]
    assert trajectory_metrics([group])["env/all/cannot_judge"] == 1
    assert grader.metrics() == {
        "grading/correct": 1.0,
        "grading/incorrect": 1.0,
        "grading/cannot_judge": 1.0,
        "grading/fault_timeout": 1.0,
    }


def test_an_attempt_that_exhausts_memory_is_not_judged(bridge: MathBridge) -> None:
    grader = MathGrader(bridge, timeout_s=60)
    group = rolled_out(grader, [EXHAUSTS, "x+2"], "2+x")
    assert rewards_of(group) == [None, 1.0]
    assert grader.faults == {"memory": 1}


def test_an_attempt_whose_worker_crashes_is_not_judged() -> None:
    bridge = MathBridge(workers=1, functions={"math_verify": PROBES["crash"]})
    grader = MathGrader(bridge, timeout_s=60)
    group = rolled_out(grader, ["x+1", "2+x", "x+2"], "x+2")
    asyncio.run(bridge.close())
    assert rewards_of(group) == [None, None, 1.0]
    assert grader.faults == {"crash": 2}
