"""Learning from a teacher: on samples of one's own (on-policy) or on given text (off-policy)."""

from crucible_train.distillation.mixture import mixed_batch, source_counts
from crucible_train.distillation.on_policy import incorporate_teacher_kl
from crucible_train.distillation.soft_targets import TopK, soft_target_datum, soft_target_kl

__all__ = [
    "TopK",
    "incorporate_teacher_kl",
    "mixed_batch",
    "soft_target_datum",
    "soft_target_kl",
    "source_counts",
]
