"""Reinforcement learning: environments, rollouts, advantages, datums, divergences, order, metrics."""

from crucible_train.rl.advantages import (
    compute_advantages,
    discounted_future_sum,
    group_advantages,
    remove_constant_reward_groups,
)
from crucible_train.rl.arithmetic import ArithmeticDataset, arithmetic_env, final_integer, operands
from crucible_train.rl.datums import Origin, assemble_training_data, inputs_for_loss, trajectory_to_data
from crucible_train.rl.divergence import (
    add_to_advantages,
    incorporate_kl_penalty,
    kl_sample_train,
    log_ratios,
    masked_mean,
    post_kl,
    scored_input,
    target_logprobs,
)
from crucible_train.rl.environment import Complete, Env, EnvGroupBuilder, RLDataset
from crucible_train.rl.math_problems import (
    BOX_SUFFIX,
    Problem,
    ProblemDataset,
    ProblemRows,
    boxed_format,
    strawberry_prefix,
)
from crucible_train.rl.metrics import GOOD_REWARD, trajectory_metrics
from crucible_train.rl.order import cycle_permutation, epoch_batch_index, interleaved_schedule, split_list
from crucible_train.rl.problem import Grader, ProblemEnv, ProblemGroup, problem_reward, verdict_of
from crucible_train.rl.rollout import rollout, rollout_group
from crucible_train.rl.trajectory import StepResult, Trajectory, TrajectoryGroup, Transition, judged_only

__all__ = [
    "BOX_SUFFIX",
    "GOOD_REWARD",
    "ArithmeticDataset",
    "Complete",
    "Env",
    "EnvGroupBuilder",
    "Grader",
    "Origin",
    "Problem",
    "ProblemDataset",
    "ProblemEnv",
    "ProblemGroup",
    "ProblemRows",
    "RLDataset",
    "StepResult",
    "Trajectory",
    "TrajectoryGroup",
    "Transition",
    "add_to_advantages",
    "arithmetic_env",
    "assemble_training_data",
    "boxed_format",
    "compute_advantages",
    "cycle_permutation",
    "discounted_future_sum",
    "epoch_batch_index",
    "final_integer",
    "group_advantages",
    "incorporate_kl_penalty",
    "inputs_for_loss",
    "interleaved_schedule",
    "judged_only",
    "kl_sample_train",
    "log_ratios",
    "masked_mean",
    "operands",
    "post_kl",
    "problem_reward",
    "remove_constant_reward_groups",
    "rollout",
    "rollout_group",
    "scored_input",
    "split_list",
    "strawberry_prefix",
    "target_logprobs",
    "trajectory_metrics",
    "trajectory_to_data",
    "verdict_of",
]
