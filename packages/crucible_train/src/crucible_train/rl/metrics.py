"""What a batch of rollouts measured, under upstream's names: ``env/all/…`` and ``env/<tag>/…``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from crucible_train.rl.trajectory import TrajectoryGroup, judged_only

__all__ = ["GOOD_REWARD", "trajectory_metrics"]

GOOD_REWARD = 0.5
"""A group whose members all have one reward counts as all good from here on, else as all bad."""


def trajectory_metrics(groups_P: Sequence[TrajectoryGroup]) -> dict[str, float]:
    """Tokens, turns, rewards and the environment's own metrics, over all groups and over those of each tag.

    Per tag: ``ac_tokens_per_turn``, ``ob_tokens_per_turn``, ``turns_per_episode``, ``total_episodes``, ``total_turns``,
    ``total_ac_tokens``, ``total_ob_tokens``, ``total_cached_ob_tokens``, ``reward/total`` (mean), the mean of
    each metric of turns and of group rewards where it was reported, and ``by_group/frac_mixed``,
    ``frac_all_good`` and ``frac_all_bad``. Means of nothing are 0. Rewards leave out what could not be judged,
    which ``cannot_judge`` then counts; where nothing could be, there is no ``reward/total`` and no ``by_group``.
    Tags are left out where every group has all of them.
    """
    tags = sorted({tag for group in groups_P for tag in group.tags})
    tagged = {tag: [group for group in groups_P if tag in group.tags] for tag in tags}
    found: dict[str, float] = {}
    if any(len(groups) < len(groups_P) for groups in tagged.values()):
        for tag, groups in tagged.items():
            found |= _named(f"env/{tag}", _of(groups))
    return found | _named("env/all", _of(groups_P))


def _named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _of(groups_P: Sequence[TrajectoryGroup]) -> dict[str, float]:
    episodes = [trajectory for group in groups_P for trajectory in group.trajectories]
    turns = [turn for episode in episodes for turn in episode.transitions]
    sampled = sum(len(turn.action.tokens) for turn in turns)
    observed = sum(turn.observation.length for turn in turns)
    judged, left_out = judged_only(groups_P)
    rewards = [reward for group in judged for reward in group.total_rewards()]
    reported = [turn.metrics for turn in turns] + [m for group in groups_P for m in group.metrics]
    return {
        "ac_tokens_per_turn": _ratio(sampled, len(turns)),
        "ob_tokens_per_turn": _ratio(observed, len(turns)),
        "turns_per_episode": _ratio(len(turns), len(episodes)),
        "total_episodes": len(episodes),
        "total_turns": len(turns),
        "total_ac_tokens": sampled,
        "total_ob_tokens": observed,
        "total_cached_ob_tokens": sum(turn.cached_tokens for turn in turns),
        **({"reward/total": _ratio(sum(rewards), len(rewards))} if rewards or not left_out else {}),
        **_means(reported),
        **({"cannot_judge": left_out} if left_out else {}),
        **(_by_group(judged) if rewards or not left_out else {}),
    }


def _means(reported: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for metrics in reported:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _by_group(judged_P: Sequence[TrajectoryGroup]) -> dict[str, float]:
    rewards_P = [group.total_rewards() for group in judged_P]
    same = [rewards for rewards in rewards_P if len(set(rewards)) == 1]
    good = sum(rewards[0] >= GOOD_REWARD for rewards in same)
    return {
        "by_group/frac_mixed": _ratio(len(rewards_P) - len(same), len(rewards_P)),
        "by_group/frac_all_good": _ratio(good, len(rewards_P)),
        "by_group/frac_all_bad": _ratio(len(same) - good, len(rewards_P)),
    }


def _ratio(total: float, of: int) -> float:
    return total / of if of else 0.0
