"""The state keys that the built-in stages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crucible_ir import DatasetSnapshot
from crucible_kitchen.engine.stage import Key
from crucible_train.ports import Handle, Tokenizer, TrainingClient
from crucible_train.types import Datum, ForwardBackwardOutput, OptimStepOutput

if TYPE_CHECKING:
    from crucible_kitchen.environments.environment import Environments, HeldOutProblem
    from crucible_kitchen.stages.examples import Example, PairExample, TrainingExample
    from crucible_kitchen.stages.in_flight import InFlight
    from crucible_kitchen.stages.rollouts import FailedGroup, RolledGroup, RolloutPool
    from crucible_kitchen.stages.sampler import FreshSampler
    from crucible_kitchen.stages.sources import Mixture, Source
    from crucible_kitchen.stages.teacher import Teacher
    from crucible_kitchen.stages.teacher_kl import TeacherKl
    from crucible_train.ports import SamplingClient
    from crucible_train.renderers import Renderer

__all__ = [
    "BATCH",
    "BATCHES",
    "CHECKPOINT_DUE",
    "CUMULATIVE",
    "DATASET",
    "ENVIRONMENTS",
    "EPOCH",
    "EPOCHS",
    "EVALUATION_DUE",
    "EVAL_DATASET",
    "EVAL_EXAMPLES",
    "EVAL_MIXTURE",
    "EVAL_PAIRS",
    "EVAL_REFERENCE",
    "EVAL_TARGETS",
    "EXAMPLES",
    "FINAL_WEIGHTS",
    "FORWARD_BACKWARD",
    "GROUPS",
    "HELD_OUT_PROMPTS",
    "IN_FLIGHT",
    "ITERATIONS",
    "LAST_CHECKPOINT_STEP",
    "LAST_EVALUATION",
    "LAST_EVALUATION_STEP",
    "LEARNING_RATE",
    "MINIBATCHES",
    "MIXTURE",
    "OPTIM_STEPS",
    "PAIRS",
    "PENDING_METRICS",
    "PROVENANCE",
    "REFERENCE",
    "REFERENCE_SAMPLER",
    "RENDERER",
    "ROLLED",
    "ROLLOUTS",
    "ROLLOUT_DATA",
    "SAMPLER",
    "SESSION",
    "SOURCES",
    "STEP",
    "SUBSTEPS",
    "TEACHERS",
    "TEACHER_KL",
    "TOKENIZER",
    "TOTAL_STEPS",
    "TRAINED",
    "UPDATES",
    "USED_PASSES",
]

DATASET: Key[DatasetSnapshot] = Key("dataset", "training rows in order")
EVAL_DATASET: Key[DatasetSnapshot | None] = Key("eval_dataset", "held-out rows, if any")
PROVENANCE: Key[dict[str, Any]] = Key(
    "provenance", "digests of data, model, tokenizer, renderer", durable=True
)
SESSION: Key[TrainingClient] = Key("session", "the model under training")
TOKENIZER: Key[Tokenizer] = Key("tokenizer", "the base model's tokenizer")
RENDERER: Key[Renderer] = Key("renderer", "turns conversations into tokens")
EXAMPLES: Key[Sequence[TrainingExample]] = Key("examples", "what batches are made of")
EVAL_EXAMPLES: Key[Sequence[Example]] = Key("eval_examples", "held-out examples: datum and id")
EPOCHS: Key[int] = Key("epochs", "number of epochs")
EPOCH: Key[int] = Key("epoch", "present epoch, from 0")
BATCHES: Key[Sequence[NDArray[np.int64]]] = Key(
    "batches", "indices of the examples of each batch of this epoch"
)
BATCH: Key[Sequence[Datum]] = Key("batch", "data of this step")
STEP: Key[int] = Key("step", "training steps submitted so far", durable=True)
TOTAL_STEPS: Key[int] = Key("total_steps", "training steps of the whole run")
LEARNING_RATE: Key[float] = Key("learning_rate", "rate of this step")
EVALUATION_DUE: Key[bool] = Key("evaluation_due", "evaluate before this step")
CHECKPOINT_DUE: Key[bool] = Key("checkpoint_due", "save after this step")
FORWARD_BACKWARD: Key[Sequence[Handle[ForwardBackwardOutput]]] = Key(
    "forward_backward", "submitted passes of this step"
)
OPTIM_STEPS: Key[Sequence[Handle[OptimStepOutput]]] = Key(
    "optim_steps", "submitted optimiser steps of this step"
)
IN_FLIGHT: Key[InFlight] = Key("in_flight", "steps submitted and not yet awaited")
PENDING_METRICS: Key[dict[str, float]] = Key("pending_metrics", "metrics to go into this step's row")
CUMULATIVE: Key[dict[str, float]] = Key("cumulative", "totals over the run so far", durable=True)
LAST_EVALUATION: Key[dict[str, float]] = Key(
    "last_evaluation", "metrics of the last evaluation", durable=True
)
LAST_EVALUATION_STEP: Key[int] = Key("last_evaluation_step", "step of the last evaluation", durable=True)
LAST_CHECKPOINT_STEP: Key[int] = Key("last_checkpoint_step", "step of the last saved state", durable=True)
FINAL_WEIGHTS: Key[dict[str, Any]] = Key("final_weights", "reference to the final weights", durable=True)
SOURCES: Key[Sequence[Source]] = Key("sources", "rows that a distillation learns on, source by source")
TEACHERS: Key[Sequence[Teacher]] = Key(
    "teachers", "the models that a distillation learns from, one per source"
)
MIXTURE: Key[Mixture] = Key("mixture", "which examples come from which source, and their share of a batch")
EVAL_MIXTURE: Key[Mixture] = Key("eval_mixture", "which held-out examples come from which source")
EVAL_TARGETS: Key[Sequence[Datum]] = Key("eval_targets", "held-out datums with the teachers' soft targets")
HELD_OUT_PROMPTS: Key[Sequence[HeldOutProblem]] = Key("held_out_prompts", "held-out prompts of all sources")
TEACHER_KL: Key[TeacherKl] = Key("teacher_kl", "distance from the teachers in this iteration so far")
PAIRS: Key[Sequence[PairExample]] = Key("pairs", "training pairs: chosen and rejected")
EVAL_PAIRS: Key[Sequence[PairExample]] = Key("eval_pairs", "held-out pairs")
REFERENCE: Key[NDArray[np.float64]] = Key("reference", "reference log-probabilities of the pairs, (P, 2)")
EVAL_REFERENCE: Key[NDArray[np.float64]] = Key("eval_reference", "the same of the held-out pairs")
ITERATIONS: Key[int] = Key("iterations", "iterations of rollout and training of the whole run")
ENVIRONMENTS: Key[Environments] = Key("environments", "groups to train on, and problems to measure on")
SAMPLER: Key[FreshSampler] = Key("sampler", "samples with the present weights")
ROLLOUTS: Key[RolloutPool] = Key("rollouts", "rollouts under way")
GROUPS: Key[Sequence[RolledGroup | FailedGroup]] = Key("groups", "finished groups to be trained on next")
ROLLED: Key[Sequence[RolledGroup | FailedGroup]] = Key("rolled", "finished groups of this iteration")
ROLLOUT_DATA: Key[Sequence[Datum]] = Key(
    "rollout_data", "datums of the finished groups, with advantages and masks"
)
UPDATES: Key[Sequence[Sequence[Datum]]] = Key("updates", "these datums, one part per optimiser step")
TRAINED: Key[Sequence[Datum]] = Key("trained", "datums of this iteration in the order they were trained on")
USED_PASSES: Key[int] = Key("used_passes", "passes of this step whose gradients were used")
REFERENCE_SAMPLER: Key[SamplingClient] = Key("reference_sampler", "the policy that training is held to")
SUBSTEPS: Key[int] = Key("substeps", "optimiser steps of an iteration")
MINIBATCHES: Key[int] = Key("minibatches", "parts of a substep that are awaited one after the other")
