"""What a rollout leaves behind: turns, trajectories, and groups of trajectories of one problem.

Array suffixes in this package: T tokens, G members of a group, P groups (problems), D datums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from crucible_ir.errors import DataError
from crucible_train.types import ModelInput, SampledSequence, StopCondition

__all__ = ["StepResult", "Trajectory", "TrajectoryGroup", "Transition", "judged_only"]

Metrics = Mapping[str, float]
Logs = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What an environment answers to an action.

    ``reward`` None says that the action could not be judged, which is not the same as a reward of 0.
    ``masked`` keeps the action out of training although the episode goes on (an answer that could not be parsed).
    """

    reward: float | None
    episode_done: bool
    next_observation: ModelInput = field(default_factory=ModelInput.empty)
    next_stop: StopCondition = None
    masked: bool = False
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One turn: what the model read, what it sampled, and what came of it.

    ``cached_tokens`` is how many tokens of the observation the sampler had at hand already.
    """

    observation: ModelInput
    action: SampledSequence
    reward: float | None
    episode_done: bool = False
    masked: bool = False
    cached_tokens: int = 0
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The turns of one episode, in order."""

    transitions: tuple[Transition, ...]
    final_observation: ModelInput = field(default_factory=ModelInput.empty)

    @property
    def reward(self) -> float | None:
        """The sum of the turns' rewards; None where one could not be judged."""
        rewards = [turn.reward for turn in self.transitions]
        return None if None in rewards else float(sum(r for r in rewards if r is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryGroup:
    """Trajectories of one problem, each with the reward and metrics that the group gave it.

    ``tags`` names what the problem belongs to; it stays with the group whatever groups are left out.

    Raises:
        DataError: not one final reward and one set of metrics per trajectory.
    """

    trajectories: tuple[Trajectory, ...]
    final_rewards: tuple[float, ...]
    metrics: tuple[Metrics, ...]
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = [len(self.trajectories), len(self.final_rewards), len(self.metrics)]
        if len(set(sizes)) > 1:
            raise DataError(
                what=f"{sizes[0]} trajectories, {sizes[1]} final rewards, {sizes[2]} sets of metrics",
                where="TrajectoryGroup",
                remedy="give one of each per trajectory",
            )

    def total_rewards(self) -> list[float]:
        """Rewards of the turns plus the final reward, one per trajectory.

        Raises:
            DataError: one could not be judged; says which.
        """
        found = []
        for index, (trajectory, final) in enumerate(zip(self.trajectories, self.final_rewards, strict=True)):
            if trajectory.reward is None:
                raise DataError(
                    what=f"trajectory {index} could not be judged, so it has no reward",
                    where="TrajectoryGroup.total_rewards",
                    remedy="take judged_only(groups) first; it says how many are left out",
                )
            found.append(trajectory.reward + final)
        return found

    def judged(self) -> TrajectoryGroup:
        """The group without the trajectories that could not be judged."""
        kept = [i for i, trajectory in enumerate(self.trajectories) if trajectory.reward is not None]
        return replace(
            self,
            trajectories=tuple(self.trajectories[i] for i in kept),
            final_rewards=tuple(self.final_rewards[i] for i in kept),
            metrics=tuple(self.metrics[i] for i in kept),
        )


def judged_only(groups_P: Iterable[TrajectoryGroup]) -> tuple[list[TrajectoryGroup], int]:
    """Groups without what could not be judged, and the number left out; a group of which nothing is left goes."""
    kept: list[TrajectoryGroup] = []
    left_out = 0
    for group in groups_P:
        judged = group.judged()
        left_out += len(group.trajectories) - len(judged.trajectories)
        if judged.trajectories:
            kept.append(judged)
    return kept, left_out
