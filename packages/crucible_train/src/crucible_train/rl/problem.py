"""One question, one answer, and a reward for being right and for keeping to the format."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from crucible_train.grading import Verdict
from crucible_train.renderers import Message, ParseTermination, Renderer
from crucible_train.rl.environment import Env
from crucible_train.rl.trajectory import StepResult, Trajectory
from crucible_train.types import ModelInput, SampledSequence, StopCondition

__all__ = ["Grader", "ProblemEnv", "ProblemGroup", "problem_reward", "verdict_of"]

Grader = Callable[[str], Awaitable[Verdict]]
"""Judges the text of an answer: correct, incorrect, or cannot judge."""


def verdict_of(check: Callable[[str], bool]) -> Grader:
    """A grader that asks a plain function, which always knows."""

    async def grade(answer: str) -> Verdict:
        return Verdict.CORRECT if check(answer) else Verdict.INCORRECT

    return grade


def problem_reward(*, correct: bool, formatted: bool, format_coef: float = 0.1) -> float:
    """correct + format_coef·(formatted − 1): 1 and 0 in the format, 0.9 and −0.1 out of it."""
    return format_coef * (float(formatted) - 1.0) + float(correct)


def _always(answer: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemEnv:
    """A question after fixed earlier messages; the first answer ends the episode.

    The format is kept where the answer ended at the renderer's own stop sequence (or, unless
    ``require_stop_sequence``, at the end-of-text token) and ``check_format`` accepts its text. What is
    right is right in any format. An answer that cannot be judged has no reward.
    """

    question: str
    renderer: Renderer
    grader: Grader
    check_format: Callable[[str], bool] = _always
    prefix: tuple[Message, ...] = ()
    reference_answer: str = ""
    format_coef: float = 0.1
    require_stop_sequence: bool = True

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """The prompt and the renderer's stop sequences."""
        messages = [*self.prefix, Message(role="user", content=self.question)]
        return self.renderer.build_generation_prompt(messages), self.renderer.stop_sequences

    async def step(self, action: SampledSequence) -> StepResult:
        """Reward and the metrics ``format`` and ``correct`` (the latter only where it could be judged)."""
        message, ended = self.renderer.parse_response(action.tokens)
        answer = message.text
        enough = ended is ParseTermination.STOP_SEQUENCE or (
            ended.is_clean and not self.require_stop_sequence
        )
        formatted = enough and self.check_format(answer)
        verdict = await self.grader(answer)
        logs: dict[str, str | int | float] = {
            "question": self.question,
            "answer": answer,
            "reference_answer": self.reference_answer,
            "verdict": verdict.value,
        }
        metrics = {"format": float(formatted)}
        if verdict is Verdict.CANNOT_JUDGE:
            return StepResult(reward=None, episode_done=True, metrics=metrics, logs=logs)
        correct = verdict is Verdict.CORRECT
        return StepResult(
            reward=problem_reward(correct=correct, formatted=formatted, format_coef=self.format_coef),
            episode_done=True,
            metrics={**metrics, "correct": float(correct)},
            logs=logs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemGroup:
    """``num_envs`` attempts at one and the same problem, without group rewards."""

    env: ProblemEnv
    num_envs: int
    dataset_name: str = "problems"

    async def make_envs(self) -> Sequence[Env]:
        """The problem, once per member; it keeps no state between attempts."""
        return [self.env] * self.num_envs

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        """Nothing is added."""
        return [(0.0, {}) for _ in trajectories_G]

    def logging_tags(self) -> Sequence[str]:
        """The data set's name."""
        return [self.dataset_name]
